//! Work shared by threads whose number never shows in a result.

use std::num::NonZero;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use crate::Error;

/// How a call may use the machine, and how it is told to stop.
pub struct Control<'a> {
    threads: Option<usize>,
    poll: Option<&'a mut dyn FnMut() -> bool>,
}

/// How often the calling thread asks whether to stop.
const POLL_EVERY: Duration = Duration::from_millis(50);

impl<'a> Control<'a> {
    /// At most `threads` threads (all available ones if `None`); `poll` runs on the calling thread
    /// about every 50 ms and answers whether to stop.
    #[must_use]
    pub fn new(threads: Option<usize>, poll: Option<&'a mut dyn FnMut() -> bool>) -> Self {
        Self { threads, poll }
    }

    /// One call that cannot be stopped.
    #[must_use]
    pub fn threads(threads: usize) -> Self {
        Self::new(Some(threads), None)
    }
}

/// The number of threads that this process may keep busy: its CPU affinity, and on Linux the
/// quota of its control group. Read once, because reading takes longer than a small kernel.
#[must_use]
pub fn available_threads() -> usize {
    static THREADS: OnceLock<usize> = OnceLock::new();
    *THREADS.get_or_init(|| std::thread::available_parallelism().map_or(1, NonZero::get))
}

/// Something that can be cut in two, such as a mutable slice.
pub(crate) trait Split: Send + Sized {
    fn len(&self) -> usize;
    fn split_at(self, mid: usize) -> (Self, Self);
}

impl<T: Send> Split for &mut [T] {
    fn len(&self) -> usize {
        <[T]>::len(self)
    }
    fn split_at(self, mid: usize) -> (Self, Self) {
        self.split_at_mut(mid)
    }
}

impl Split for Range<usize> {
    fn len(&self) -> usize {
        self.end - self.start
    }
    fn split_at(self, mid: usize) -> (Self, Self) {
        (self.start..self.start + mid, self.start + mid..self.end)
    }
}

/// How finely work is cut.
pub(crate) struct Grain {
    /// Items in one call of the kernel; every call starts at a multiple of it.
    pub items: usize,
    /// Items below which a further thread costs more than it gives.
    pub per_thread: usize,
}

/// Runs `kernel(state, start, piece)` over all of `work`. Each thread owns a state from `init` and
/// hands it to `finish` at the end, in no particular order.
///
/// Threads take large pieces first and smaller ones towards the end, so that each writes long
/// neighbouring stretches (fewer shared pages) and all end together.
pub(crate) fn run<W: Split, S>(
    control: &mut Control<'_>,
    work: W,
    grain: &Grain,
    init: impl Fn() -> S + Sync,
    kernel: impl Fn(&mut S, usize, W) + Sync,
    finish: impl Fn(S) + Sync,
) -> Result<(), Error> {
    let useful = work.len() / grain.per_thread.max(1);
    let threads = match control.threads {
        _ if useful <= 1 => 1,
        Some(threads) => threads.clamp(1, useful),
        None => available_threads().min(useful),
    };
    let queue = Queue::new(work, grain.items, threads);
    let stop = AtomicBool::new(false);
    let worker = |mut poll: Option<&mut dyn FnMut() -> bool>| {
        let mut state = init();
        let mut last = Instant::now();
        while let Some((mut start, mut rest)) = queue.take() {
            while rest.len() > 0 {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                let n = grain.items.min(rest.len());
                let (piece, tail) = rest.split_at(n);
                kernel(&mut state, start, piece);
                (start, rest) = (start + n, tail);
                if let Some(poll) = &mut poll
                    && last.elapsed() >= POLL_EVERY
                {
                    last = Instant::now();
                    if poll() {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
        finish(state);
    };
    std::thread::scope(|scope| {
        for _ in 1..threads {
            // Without a further thread the others take its share.
            if std::thread::Builder::new()
                .spawn_scoped(scope, || worker(None))
                .is_err()
            {
                break;
            }
        }
        let mut ask = || control.poll.as_mut().is_some_and(|poll| poll());
        worker(Some(&mut ask));
    });
    if stop.into_inner() {
        return Err(Error::Interrupted);
    }
    Ok(())
}

struct Queue<W> {
    rest: Mutex<(usize, Option<W>)>,
    grain: usize,
    threads: usize,
}

impl<W: Split> Queue<W> {
    fn new(work: W, grain: usize, threads: usize) -> Self {
        Self {
            rest: Mutex::new((0, Some(work))),
            grain,
            threads,
        }
    }

    fn take(&self) -> Option<(usize, W)> {
        let mut rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        let start = rest.0;
        let work = rest.1.take()?;
        if self.threads == 1 {
            return Some((start, work));
        }
        let share = work.len().div_ceil(2 * self.threads);
        let n = share.next_multiple_of(self.grain).min(work.len());
        let (piece, tail) = work.split_at(n);
        if tail.len() > 0 {
            *rest = (start + n, Some(tail));
        }
        Some((start, piece))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRAIN: Grain = Grain {
        items: 8,
        per_thread: 16,
    };

    #[test]
    fn covers_every_item_once() {
        for threads in 1..6 {
            for len in [0, 1, 7, 8, 9, 1000, 1003] {
                let mut out = vec![0_usize; len];
                run(
                    &mut Control::threads(threads),
                    out.as_mut_slice(),
                    &GRAIN,
                    || (),
                    |(), start, piece| {
                        assert_eq!(start % 8, 0);
                        for (i, value) in piece.iter_mut().enumerate() {
                            *value += start + i + 1;
                        }
                    },
                    |()| (),
                )
                .expect("not interrupted");
                assert!(out.iter().enumerate().all(|(i, &v)| v == i + 1));
            }
        }
    }

    #[test]
    fn stops_when_asked() {
        let mut poll = || true;
        let result = run(
            &mut Control::new(Some(1), Some(&mut poll)),
            0..1000,
            &GRAIN,
            || (),
            |(), _, _| std::thread::sleep(Duration::from_millis(10)),
            |()| panic!("an interrupted thread has no result"),
        );
        assert_eq!(result, Err(Error::Interrupted));
    }
}
