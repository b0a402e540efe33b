//! Weight, mean and squared error of runs of neighbouring points. Nothing is a difference of sums, so
//! that what is small keeps its digits whatever lies beside it, and however heavy that is.

use std::ops::Range;

/// What some points weigh, their mean, and their squared error around it.
#[derive(Clone, Copy, Default)]
pub(crate) struct Moments {
    pub(crate) weight: f64,
    pub(crate) mean: f64,
    pub(crate) square: f64,
}

impl Moments {
    /// Of both together (Chan, Golub and LeVeque 1979): only terms that are not negative are added up.
    #[inline(always)]
    fn join(self, other: Self) -> Self {
        let weight = self.weight + other.weight;
        let apart = other.mean - self.mean;
        Self {
            weight,
            mean: self.mean + apart * (other.weight / weight),
            square: self.joint_square(other.weight, other.mean, other.square),
        }
    }

    #[inline(always)]
    fn joint_square(self, weight: f64, mean: f64, square: f64) -> f64 {
        let apart = mean - self.mean;
        let shared = self.weight * weight / (self.weight + weight);
        self.square + square + apart * apart * shared
    }
}

/// The squared error of any run of items in one step. On level l, items are cut into blocks of
/// `2^(l+1)`, and each holds the moments of those from itself to the middle of its block. The first
/// and the last item of a run lie on two sides of such a middle on one level.
pub(crate) struct Runs {
    items: Vec<Moments>,
    levels: Vec<Level>,
}

struct Level {
    weight: Vec<f64>,
    mean: Vec<f64>,
    square: Vec<f64>,
}

impl Level {
    fn new(n: usize) -> Self {
        Self {
            weight: vec![0.0; n],
            mean: vec![0.0; n],
            square: vec![0.0; n],
        }
    }

    fn set(&mut self, i: usize, moments: Moments) {
        self.weight[i] = moments.weight;
        self.mean[i] = moments.mean;
        self.square[i] = moments.square;
    }

    fn at(&self, i: usize) -> Moments {
        Moments {
            weight: self.weight[i],
            mean: self.mean[i],
            square: self.square[i],
        }
    }
}

impl Runs {
    pub(crate) fn new(items: Vec<Moments>) -> Self {
        let n = items.len();
        let levels = (0..bits(n.saturating_sub(1))).map(|level| {
            let mut table = Level::new(n);
            for middle in ((1 << level)..n).step_by(2 << level) {
                let mut left = items[middle - 1];
                table.set(middle - 1, left);
                for i in (middle - (1 << level)..middle - 1).rev() {
                    left = left.join(items[i]);
                    table.set(i, left);
                }
                let mut right = items[middle];
                table.set(middle, right);
                let end = n.min(middle + (1 << level));
                for (i, &item) in (middle + 1..end).zip(&items[middle + 1..end]) {
                    right = right.join(item);
                    table.set(i, right);
                }
            }
            table
        });
        let levels = levels.collect();
        Self { items, levels }
    }

    pub(crate) fn len(&self) -> usize {
        self.items.len()
    }

    /// The squared error of the first `to` items around their mean.
    pub(crate) fn first(&self, to: usize) -> f64 {
        self.best_start(to, 0, 0, &[0.0]).0
    }

    /// Where the run that ends before `to` begins, between `least` and `most`, for the least error of
    /// its own and of what lies `before`; of equal ones the first.
    #[inline(always)]
    pub(crate) fn best_start(
        &self,
        to: usize,
        least: usize,
        most: usize,
        before: &[f64],
    ) -> (f64, usize) {
        let last = to - 1;
        let mut best = (f64::INFINITY, least);
        // A start and the last item lie on two sides of a middle on the level of the highest bit in
        // which they differ.
        let (high, low) = (bits(least ^ last), bits(most.min(last) ^ last));
        let levels = low.saturating_sub(1)..high;
        for (level, table) in levels.clone().zip(&self.levels[levels]).rev() {
            if last >> level & 1 == 0 {
                continue;
            }
            // Items with which the last one shares the block, but not the half.
            let middle = last >> level << level;
            let starts = least.max(middle - (1 << level))..middle.min(most + 1);
            if !starts.is_empty() {
                table.search(table.at(last), starts, before, &mut best);
            }
        }
        if most >= last {
            let cost = before[last] + self.items[last].square;
            if cost < best.0 {
                best = (cost, last);
            }
        }
        best
    }
}

/// How many bits a number takes.
#[inline(always)]
fn bits(number: usize) -> usize {
    (usize::BITS - number.leading_zeros()) as usize
}

impl Level {
    #[inline(always)]
    fn search(
        &self,
        right: Moments,
        starts: Range<usize>,
        before: &[f64],
        best: &mut (f64, usize),
    ) {
        let (weight, mean) = (&self.weight[starts.clone()], &self.mean[starts.clone()]);
        let (square, before) = (&self.square[starts.clone()], &before[starts.clone()]);
        let left = weight.iter().zip(mean).zip(square).zip(before);
        for (i, (((weight, mean), square), before)) in left.enumerate() {
            let cost = before + right.joint_square(*weight, *mean, *square);
            if cost < best.0 {
                *best = (cost, starts.start + i);
            }
        }
    }
}

/// Means of any run of points, from sums of neighbours (a binary tree), so that no sum holds more than
/// the run.
pub(crate) struct MeanTree {
    weight: Vec<f64>,
    total: Vec<f64>,
}

impl MeanTree {
    pub(crate) fn new(value: &[f64], weight: &[f64]) -> Self {
        let n = value.len();
        let tree = |leaves: &mut dyn Iterator<Item = f64>| {
            let mut nodes = vec![0.0; n];
            nodes.extend(leaves);
            for i in (1..n).rev() {
                nodes[i] = nodes[2 * i] + nodes[2 * i + 1];
            }
            nodes
        };
        Self {
            weight: tree(&mut weight.iter().copied()),
            total: tree(&mut value.iter().zip(weight).map(|(v, w)| v * w)),
        }
    }

    pub(crate) fn mean(&self, run: Range<usize>) -> f64 {
        let n = self.weight.len() / 2;
        let (mut from, mut to) = (run.start + n, run.end + n);
        let (mut weight, mut total) = (0.0, 0.0);
        let mut add = |node: usize| {
            weight += self.weight[node];
            total += self.total[node];
        };
        while from < to {
            if from & 1 == 1 {
                add(from);
                from += 1;
            }
            if to & 1 == 1 {
                to -= 1;
                add(to);
            }
            from /= 2;
            to /= 2;
        }
        total / weight
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(n: usize) -> Vec<Moments> {
        (0..n)
            .map(|i| Moments {
                weight: (i % 5 + 1) as f64,
                mean: (i * i) as f64 / 8.0,
                square: (i % 3) as f64,
            })
            .collect()
    }

    #[test]
    fn every_run_has_the_error_of_its_definition() {
        for n in [1, 2, 3, 7, 8, 33] {
            let all = items(n);
            let runs = Runs::new(all.clone());
            let values: Vec<f64> = all.iter().map(|item| item.mean).collect();
            let weights: Vec<f64> = all.iter().map(|item| item.weight).collect();
            let tree = MeanTree::new(&values, &weights);
            for to in 1..=n {
                for from in 0..to {
                    let run = &all[from..to];
                    let weight: f64 = run.iter().map(|item| item.weight).sum();
                    let total: f64 = run.iter().map(|item| item.weight * item.mean).sum();
                    let mean = total / weight;
                    let want: f64 = run
                        .iter()
                        .map(|item| item.square + item.weight * (item.mean - mean).powi(2))
                        .sum();
                    let (got, start) = runs.best_start(to, from, from, &vec![0.0; n]);
                    assert_eq!(start, from);
                    assert!(
                        (got - want).abs() <= 1e-12 * want,
                        "{from} {to} {got} {want}"
                    );
                    assert!((tree.mean(from..to) - mean).abs() <= 1e-12 * mean);
                }
            }
        }
    }

    #[test]
    fn a_run_beside_a_huge_value_keeps_its_digits() {
        let item = |mean: f64, weight: f64| Moments {
            weight,
            mean,
            square: 0.0,
        };
        let runs = Runs::new(vec![
            item(-1e38, 1e9),
            item(-1.0, 1.0),
            item(1.0, 1.0),
            item(1e38, 1e9),
        ]);
        assert_eq!(runs.best_start(3, 1, 1, &[0.0; 4]), (2.0, 1));
        let tree = MeanTree::new(&[-1e38, -1.0, 2.0, 1e38], &[1e9, 1.0, 1.0, 1e9]);
        assert_eq!(tree.mean(1..3), 0.5);
    }
}
