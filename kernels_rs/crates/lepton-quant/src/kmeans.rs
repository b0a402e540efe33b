//! Weighted k-means on a line: exact by dynamic programming on up to [`EXACT`] points, and with that
//! as its start and Lloyd's iteration on more.

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

    /// The means of the clusters between cuts, each summed for itself: differences of sums over all
    /// points would lose what is small beside the largest.
    fn means(&self, cuts: &[usize]) -> Vec<f64> {
        let mean = |from: usize, to: usize| {
            let pairs = || self.value[from..to].iter().zip(&self.weight[from..to]);
            let weight: f64 = self.weight[from..to].iter().sum();
            let mean: f64 = pairs().map(|(v, w)| v * (w / weight)).sum();
            // Rounding must not carry a mean past its values.
            mean.clamp(self.value[from], self.value[to - 1])
        };
        cuts.windows(2).map(|cut| mean(cut[0], cut[1])).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.value.len()
    }
}

/// The means of the at most `k` clusters of least squared error, in ascending order.
pub(crate) fn cluster(points: &Points, k: usize) -> Vec<f64> {
    if points.len() <= k {
        return points.value.clone();
    }
    let sums = Sums::new(points);
    if points.len() <= EXACT {
        return points.means(&exact_cuts(&sums, k));
    }
    // Cells of a few points each, cut so that every cluster is likely to have many.
    let groups = group_ends(points);
    let coarse = sums.at(&groups);
    let cuts = exact_cuts(&coarse, k);
    let cuts: Vec<usize> = cuts.into_iter().map(|cut| groups[cut]).collect();
    points.means(&lloyd(points, &sums, cuts))
}

/// Sums of weights, weighted values and squares before each point. Values are taken from their mean,
/// or the difference of squares would lose digits.
struct Sums {
    shift: f64,
    weight: Vec<f64>,
    first: Vec<f64>,
    second: Vec<f64>,
}

impl Sums {
    fn new(points: &Points) -> Self {
        let total: f64 = points.weight.iter().sum();
        let pairs = || points.value.iter().zip(&points.weight);
        let shift = pairs().map(|(v, w)| v * (w / total)).sum::<f64>();
        let mut sums = Self {
            shift,
            weight: vec![0.0],
            first: vec![0.0],
            second: vec![0.0],
        };
        let (mut weight, mut first, mut second) = (0.0, 0.0, 0.0);
        for (v, w) in pairs() {
            let v = v - shift;
            weight += w;
            first += w * v;
            second += w * v * v;
            sums.weight.push(weight);
            sums.first.push(first);
            sums.second.push(second);
        }
        sums
    }

    fn len(&self) -> usize {
        self.weight.len() - 1
    }

    /// The sums before some of the points.
    fn at(&self, ends: &[usize]) -> Self {
        let pick = |from: &[f64]| ends.iter().map(|&end| from[end]).collect();
        Self {
            shift: self.shift,
            weight: pick(&self.weight),
            first: pick(&self.first),
            second: pick(&self.second),
        }
    }

    /// The squared error of the points `from..to` around their mean.
    #[inline(always)]
    fn cost(&self, from: usize, to: usize) -> f64 {
        let weight = self.weight[to] - self.weight[from];
        let first = self.first[to] - self.first[from];
        let second = self.second[to] - self.second[from];
        let cost = second - first * first / weight;
        if cost > 0.0 { cost } else { 0.0 }
    }

    fn mean(&self, from: usize, to: usize) -> f64 {
        let weight = self.weight[to] - self.weight[from];
        self.shift + (self.first[to] - self.first[from]) / weight
    }

    /// The means of the clusters between cuts.
    fn means(&self, cuts: &[usize]) -> Vec<f64> {
        cuts.windows(2)
            .map(|cut| self.mean(cut[0], cut[1]))
            .collect()
    }
}

/// The ends of up to [`EXACT`] groups of points, the first of which is 0: half of their number is
/// shared out by weight and half by the cube root of the density, as the entries of the best palette
/// lie (Panter and Dite).
fn group_ends(points: &Points) -> Vec<usize> {
    let n = points.len();
    let total: f64 = points.weight.iter().sum();
    let width = |i: usize| {
        let low = points.value[i.saturating_sub(1)];
        let high = points.value[(i + 1).min(n - 1)];
        (high - low) / 2.0
    };
    let share = |i: usize| (points.weight[i] * width(i) * width(i)).cbrt();
    let shares: f64 = (0..n).map(share).sum();
    let groups = (EXACT - 1) as f64;
    let mut ends = vec![0];
    let (mut sum, mut next) = (0.0, 1.0);
    for i in 0..n {
        sum += groups * (points.weight[i] / total + share(i) / shares) / 2.0;
        if sum >= next {
            ends.push(i + 1);
            next = sum.floor() + 1.0;
        }
    }
    if ends.last() != Some(&n) {
        ends.push(n);
    }
    ends
}

/// The cuts of the best clusters, from 0 to the number of points. Row by row of the number of
/// clusters, the best last cut grows with the number of points, so that halving finds all of them in
/// `n log n` steps (Grønlund et al. 2017).
fn exact_cuts(sums: &Sums, k: usize) -> Vec<usize> {
    let n = sums.len();
    let k = k.min(n);
    let mut best: Vec<f64> = (0..=n)
        .map(|to| if to == 0 { 0.0 } else { sums.cost(0, to) })
        .collect();
    let mut last = vec![vec![0_u32; n + 1]];
    for clusters in 2..=k {
        let mut next = vec![f64::INFINITY; n + 1];
        let mut cut = vec![0_u32; n + 1];
        let mut open = vec![(clusters, n, clusters - 1, n - 1)];
        while let Some((low, high, least, most)) = open.pop() {
            let middle = low.midpoint(high);
            let (mut found, mut place) = (f64::INFINITY, least);
            let most_here = most.min(middle - 1);
            for (from, before) in (least..).zip(&best[least..=most_here]) {
                let cost = before + sums.cost(from, middle);
                if cost < found {
                    (found, place) = (cost, from);
                }
            }
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
fn lloyd(points: &Points, sums: &Sums, mut cuts: Vec<usize>) -> Vec<usize> {
    let mut means = sums.means(&cuts);
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
        means = sums.means(&cuts);
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
        let sums = Sums::new(&all);
        for a in 1..9 {
            for b in a..9 {
                for (k, cuts) in [(2, vec![0, a, 9]), (3, vec![0, a, b, 9])] {
                    if a < b || k == 2 {
                        let cost = cuts.windows(2).map(|c| sums.cost(c[0], c[1])).sum();
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

    #[test]
    fn large_sets_come_within_a_thousandth() {
        let all = points(20_000);
        let sums = Sums::new(&all);
        for k in [2, 16, 64] {
            let exact = sums.means(&exact_cuts(&sums, k));
            let (got, least) = (error(&all, &cluster(&all, k)), error(&all, &exact));
            assert!(got <= least * 1.001, "{k} {got} {least}");
        }
    }
}
