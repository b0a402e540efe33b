//! Weighted k-means on a line: exact by dynamic programming on up to [`EXACT`] points, and with that
//! as its start and Lloyd's iteration on more.

use crate::moments::{MeanTree, Moments, Runs};

/// Points up to which the result is the optimum.
const EXACT: usize = 4096;

/// Iterations at most; far fewer are needed from a good start.
const ITERATIONS: usize = 500;

/// Weighted points in ascending order.
#[derive(Default)]
pub(crate) struct Points {
    value: Vec<f64>,
    weight: Vec<f64>,
}

impl Points {
    pub(crate) fn push(&mut self, value: f64, weight: f64) {
        self.value.push(value);
        self.weight.push(weight);
    }

    /// The mean of the points `from..to`, summed for itself: a difference of sums over all points
    /// would lose what is small beside the largest.
    fn mean(&self, from: usize, to: usize) -> f64 {
        let pairs = self.value[from..to].iter().zip(&self.weight[from..to]);
        let weight: f64 = self.weight[from..to].iter().sum();
        let mean: f64 = pairs.map(|(v, w)| v * (w / weight)).sum();
        // Rounding must not carry a mean past its values.
        mean.clamp(self.value[from], self.value[to - 1])
    }

    /// The means of the clusters between cuts.
    fn means(&self, cuts: &[usize]) -> Vec<f64> {
        cuts.windows(2)
            .map(|cut| self.mean(cut[0], cut[1]))
            .collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.value.len()
    }

    /// Points `from..to` as one.
    fn moments(&self, from: usize, to: usize) -> Moments {
        let mean = self.mean(from, to);
        let pairs = self.value[from..to].iter().zip(&self.weight[from..to]);
        Moments {
            weight: self.weight[from..to].iter().sum(),
            mean,
            square: pairs.map(|(v, w)| w * (v - mean) * (v - mean)).sum(),
        }
    }

    /// The runs of points between ends.
    fn runs(&self, ends: impl Iterator<Item = (usize, usize)>) -> Runs {
        Runs::new(ends.map(|(from, to)| self.moments(from, to)).collect())
    }
}

/// The means of the at most `k` clusters of least squared error, in ascending order.
pub(crate) fn cluster(points: &Points, k: usize) -> Vec<f64> {
    if points.len() <= k {
        return points.value.clone();
    }
    if points.len() <= EXACT {
        let runs = points.runs((0..points.len()).map(|i| (i, i + 1)));
        return points.means(&exact_cuts(&runs, k));
    }
    // Cells of a few points each, cut so that every cluster is likely to have many.
    let groups = group_ends(points);
    let coarse = points.runs(groups.windows(2).map(|ends| (ends[0], ends[1])));
    let cuts = exact_cuts(&coarse, k);
    let cuts: Vec<usize> = cuts.into_iter().map(|cut| groups[cut]).collect();
    points.means(&lloyd(points, cuts))
}

/// The ends of up to [`EXACT`] groups of points, the first of which is 0: half of their number is
/// shared out by weight and half by the cube root of the density, as the entries of the best palette
/// lie (Panter and Dite). A point with a larger share than one group is a group of its own.
fn group_ends(points: &Points) -> Vec<usize> {
    let n = points.len();
    let mut ends = vec![0];
    let mut end = |at: usize| {
        if ends.last() != Some(&at) {
            ends.push(at);
        }
    };
    let (mut sum, mut next) = (0.0, 1.0);
    for (i, share) in group_shares(points).into_iter().enumerate() {
        if share >= 1.0 {
            end(i);
            end(i + 1);
            continue;
        }
        sum += share;
        if sum >= next {
            end(i + 1);
            next = sum.floor() + 1.0;
        }
    }
    end(n);
    ends
}

/// Times that what points with a group of their own cannot use is shared out again, at most.
const SHARINGS: usize = 32;

/// What every point takes of a group; 1 is one of its own, for which a further end is set aside. Zeros
/// of pruned weights and a value far from all others would else leave few groups for the rest.
fn group_shares(points: &Points) -> Vec<f64> {
    let n = points.len();
    let spread = |i: usize| {
        let low = points.value[i.saturating_sub(1)];
        let high = points.value[(i + 1).min(n - 1)];
        let width = (high - low) / 2.0;
        (points.weight[i] * width * width).cbrt()
    };
    let spread: Vec<f64> = (0..n).map(spread).collect();
    let mut shares = vec![0.0; n];
    let mut groups = EXACT - 1;
    for _ in 0..SHARINGS {
        let others = || (0..n).filter(|&i| shares[i] < 1.0);
        let weight: f64 = others().map(|i| points.weight[i]).sum();
        let width: f64 = others().map(|i| spread[i]).sum();
        let mut alone = 0;
        for i in 0..n {
            if shares[i] < 1.0 {
                let share = points.weight[i] / weight + spread[i] / width;
                shares[i] = (groups as f64 * share / 2.0).min(1.0);
                alone += usize::from(shares[i] == 1.0);
            }
        }
        groups = groups.saturating_sub(2 * alone);
        if alone == 0 || groups == 0 {
            break;
        }
    }
    shares
}

/// The cuts of the best clusters, from 0 to the number of points. Row by row of the number of
/// clusters, the best last cut grows with the number of points, so that halving finds all of them in
/// `n log n` steps (Grønlund et al. 2017).
fn exact_cuts(runs: &Runs, k: usize) -> Vec<usize> {
    let n = runs.len();
    let k = k.min(n);
    let mut best: Vec<f64> = (0..=n)
        .map(|to| if to == 0 { 0.0 } else { runs.first(to) })
        .collect();
    let mut last = vec![vec![0_u32; n + 1]];
    for clusters in 2..=k {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut cut = vec![0_u32; n + 1];
        let mut open = vec![(clusters, n, clusters - 1, n - 1)];
        while let Some((low, high, least, most)) = open.pop() {
            let middle = low.midpoint(high);
            let (found, place) = runs.best_start(middle, least, most.min(middle - 1), &best);
            (next[middle], cut[middle]) = (found, place as u32);
            if low < middle {
                open.push((low, middle - 1, least, place));
            }
            if middle < high {
                open.push((middle + 1, high, place, most));
            }
        }
        best = next;
        last.push(cut);
    }
    let mut cuts = vec![n];
    let mut to = n;
    for cut in last.iter().rev() {
        to = cut[to] as usize;
        cuts.push(to);
    }
    cuts.reverse();
    cuts
}

/// Moves each cut half way between the means beside it until none moves.
fn lloyd(points: &Points, mut cuts: Vec<usize>) -> Vec<usize> {
    let tree = MeanTree::new(&points.value, &points.weight);
    let means_of = |cuts: &[usize]| -> Vec<f64> {
        cuts.windows(2)
            .map(|cut| tree.mean(cut[0]..cut[1]))
            .collect()
    };
    let mut means = means_of(&cuts);
    for _ in 0..ITERATIONS {
        let mut moved = false;
        for i in 1..means.len() {
            let middle = f64::midpoint(means[i - 1], means[i]);
            let cut = points.value.partition_point(|&v| v <= middle);
            // No cluster may lose its last point.
            let cut = cut.clamp(cuts[i - 1] + 1, cuts[i + 1] - 1);
            moved |= cut != cuts[i];
            cuts[i] = cut;
        }
        if !moved {
            break;
        }
        means = means_of(&cuts);
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(n: usize) -> Points {
        let mut points = Points::default();
        for i in 0..n {
            let x = (i as f64 / n as f64 - 0.5) * 8.0;
            let weight = (-x * x / 2.0).exp() * 1e6 + (i * 7919 % 13) as f64 + 1.0;
            points.push(x + (i % 7) as f64 * 1e-5, weight.floor());
        }
        points
    }

    fn error(points: &Points, means: &[f64]) -> f64 {
        let nearest = |v: f64| {
            means
                .iter()
                .map(|m| (v - m).powi(2))
                .fold(f64::INFINITY, f64::min)
        };
        let pairs = points.value.iter().zip(&points.weight);
        pairs.map(|(&v, w)| w * nearest(v)).sum()
    }

    #[test]
    fn small_sets_are_solved() {
        let all = points(9);
        let mut least = [f64::INFINITY; 4];
        for a in 1..9 {
            for b in a..9 {
                for (k, cuts) in [(2, vec![0, a, 9]), (3, vec![0, a, b, 9])] {
                    if a < b || k == 2 {
                        let cost = error(&all, &all.means(&cuts));
                        least[k] = least[k].min(cost);
                    }
                }
            }
        }
        for k in [2, 3] {
            let got = error(&all, &cluster(&all, k));
            assert!(
                (got / least[k] - 1.0).abs() < 1e-9,
                "{k} {got} {}",
                least[k]
            );
        }
        assert_eq!(cluster(&all, 9), all.value);
        assert_eq!(cluster(&all, 20), all.value);
    }

    /// The means of the best clusters, whatever the number of points.
    fn best(points: &Points, k: usize) -> Vec<f64> {
        let runs = points.runs((0..points.len()).map(|i| (i, i + 1)));
        points.means(&exact_cuts(&runs, k))
    }

    #[test]
    fn values_far_out_do_not_blur_the_others_however_heavy() {
        for (n, bound) in [(900, 1.0 + 1e-9), (20_000, 1.001)] {
            let near = points(n);
            let heavy = 3.0 * near.weight.iter().sum::<f64>();
            let least = [63, 62].map(|k| error(&near, &best(&near, k)));
            for (low, high) in [(0.0, 1e9), (-1e30, 0.0), (-3.4e38, 3.4e38), (-1e9, 1e30)] {
                for weight in [1.0, heavy] {
                    let mut all = Points::default();
                    if low < 0.0 {
                        all.push(low, weight);
                    }
                    for (&value, &weight) in near.value.iter().zip(&near.weight) {
                        all.push(value, weight);
                    }
                    if high > 0.0 {
                        all.push(high, weight);
                    }
                    let means = cluster(&all, 64);
                    assert_eq!(means.len(), 64);
                    let got = error(&all, &means) / least[all.len() - n - 1];
                    assert!(got <= bound, "{n} {low} {high} {weight} {got}");
                }
            }
        }
    }

    #[test]
    fn large_sets_come_within_a_thousandth() {
        let all = points(20_000);
        for k in [2, 16, 64] {
            let (got, least) = (error(&all, &cluster(&all, k)), error(&all, &best(&all, k)));
            assert!(got <= least * 1.001, "{k} {got} {least}");
        }
    }
}
