//! One loop, compiled for several instruction sets, chosen when it runs.

use std::sync::OnceLock;

/// The instruction sets that the kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// What every processor of this architecture has (SSE2 on x86-64, NEON on aarch64).
    Baseline,
    /// AVX2, F16C and FMA.
    Avx2,
    /// AVX-512 F, BW, DQ and VL.
    Avx512,
}

/// The level in use: the best that this processor has, or less if the environment variable
/// `LEPTON_KERNELS_SIMD` asks for `baseline` or `avx2`. Read once.
#[must_use]
pub fn level() -> Level {
    static LEVEL: OnceLock<Level> = OnceLock::new();
    *LEVEL.get_or_init(|| {
        let wanted = match std::env::var("LEPTON_KERNELS_SIMD").as_deref() {
            Ok("baseline") => Level::Baseline,
            Ok("avx2") => Level::Avx2,
            _ => Level::Avx512,
        };
        wanted.min(detect())
    })
}

#[cfg(target_arch = "x86_64")]
fn detect() -> Level {
    let avx2 = is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("f16c")
        && is_x86_feature_detected!("fma");
    let avx512 = avx2
        && is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl");
    match (avx2, avx512) {
        (_, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Baseline,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detect() -> Level {
    Level::Baseline
}

/// Whether `f32::mul_add` is an instruction; else it is a slow function.
pub(crate) fn has_fused_products() -> bool {
    cfg!(target_arch = "aarch64") || level() >= Level::Avx2
}

/// Defines `fn name(..)` that runs the `#[inline(always)]` function `body` compiled for the
/// current [`level`]; after `up to 256 bits:`, with registers of at most that many.
macro_rules! multiversion {
    (up to 256 bits: $($function:tt)*) => {
        $crate::simd::multiversion! { @ "avx2,f16c,fma"; $($function)* }
    };
    (
        @ $widest:literal;
        $(#[$meta:meta])*
        $vis:vis fn $name:ident $(<$($g:ident : $bound:path),+>)? (
            $($arg:ident : $ty:ty),* $(,)?
        ) $(-> $ret:ty)? = $body:path;
    ) => {
        $(#[$meta])*
        $vis fn $name $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,f16c,fma")]
                fn avx2 $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                #[target_feature(enable = $widest)]
                fn widest $(<$($g: $bound),+>)? ($($arg: $ty),*) $(-> $ret)? {
                    $body($($arg),*)
                }
                match $crate::simd::level() {
                    // SAFETY: `level` reports only what this processor has.
                    $crate::simd::Level::Avx512 => unsafe { widest($($arg),*) },
                    // SAFETY: as above.
                    $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                    $crate::simd::Level::Baseline => $body($($arg),*),
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            {
                $body($($arg),*)
            }
        }
    };
    ($($function:tt)*) => {
        $crate::simd::multiversion! {
            @ "avx2,f16c,fma,avx512f,avx512bw,avx512dq,avx512vl"; $($function)*
        }
    };
}
pub(crate) use multiversion;

/// Has the processor fetch a slice into its cache.
#[inline(always)]
pub(crate) fn prefetch(x: &[f32]) {
    prefetch_later(x, 0);
}

/// Has the processor fetch as many values as a slice has, `ahead` values behind its first, if they
/// are there.
#[inline(always)]
pub(crate) fn prefetch_later(x: &[f32], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(x, ahead) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which changes nothing that the program computes, and which processors
        // ignore for an address that is not valid.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, ahead);
}

/// As [`prefetch_later`], into the second cache alone: what reads two streams and writes a third
/// has no room for more in the first.
#[inline(always)]
pub(crate) fn prefetch_nearby(x: &[f32], ahead: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in lines(x, ahead) {
        use std::arch::x86_64::{_MM_HINT_T1, _mm_prefetch};
        // SAFETY: as above.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (x, ahead);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn lines(x: &[f32], ahead: usize) -> impl Iterator<Item = *const i8> {
    let first = x.as_ptr().wrapping_add(ahead);
    (0..x.len())
        .step_by(16)
        .map(move |start| first.wrapping_add(start).cast())
}
