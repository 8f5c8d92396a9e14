//! Pairing rows with columns at the least cost.

use pathfinding::kuhn_munkres::kuhn_munkres_min;
use pathfinding::matrix::Matrix as Weights;

/// What the largest cost becomes: weights are whole numbers.
const LARGEST: f64 = (1_u64 << 40) as f64;

/// For each row, its column, so that the sum of the costs is least (Kuhn 1955, Munkres 1957). The costs are
/// square, finite and not negative.
pub fn assign(costs: &[Vec<f64>]) -> Vec<usize> {
    let largest = costs.iter().flatten().fold(0.0_f64, |most, cost| most.max(*cost));
    let scale = if largest > 0.0 { LARGEST / largest } else { 0.0 };
    let whole = |cost: &f64| (cost * scale).round() as i64;
    let rows = costs.iter().map(|row| row.iter().map(whole).collect::<Vec<_>>());
    match Weights::from_rows(rows) {
        Ok(weights) if weights.rows == weights.columns && weights.rows > 0 => {
            kuhn_munkres_min(&weights).1
        }
        _ => (0..costs.len()).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cost(costs: &[Vec<f64>], columns: &[usize]) -> f64 {
        costs.iter().zip(columns).map(|(row, column)| row[*column]).sum()
    }

    fn permutations(items: Vec<usize>) -> Vec<Vec<usize>> {
        if items.is_empty() {
            return vec![Vec::new()];
        }
        let first = |i: usize| {
            let mut rest = items.clone();
            let own = rest.remove(i);
            permutations(rest).into_iter().map(move |rest| [vec![own], rest].concat())
        };
        (0..items.len()).flat_map(first).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_other_pairing_costs_less(costs in prop::collection::vec(prop::collection::vec(0.0_f64..10.0, 4), 4)) {
            let found = assign(&costs);
            let least = permutations((0..4).collect()).iter().map(|p| cost(&costs, p)).fold(f64::MAX, f64::min);
            prop_assert!((cost(&costs, &found) - least).abs() <= 1e-9);
        }
    }

    #[test]
    fn equal_costs_leave_every_row_its_own_column() {
        assert_eq!(assign(&vec![vec![0.0; 3]; 3]), [0, 1, 2]);
        assert!(assign(&[]).is_empty());
    }
}
