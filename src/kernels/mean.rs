//! Means of models that are weighted element by element.

#[inline(always)]
pub(super) fn weighted_means(
    weights: &[f64],
    floor: f32,
    values: &[Vec<f32>],
    importance: &[Vec<f32>],
    out: &mut [f32],
) {
    for (i, out) in out.iter_mut().enumerate() {
        let (mut sum, mut total, mut plain, mut plain_total) = (0.0, 0.0, 0.0, 0.0);
        for ((weight, values), importance) in weights.iter().zip(values).zip(importance) {
            let value = f64::from(values[i]);
            let own = importance[i];
            // What is below the floor, and so whatever is negative, counts as the floor.
            let share = weight * f64::from(if own > floor { own } else { floor });
            sum += share * value;
            total += share;
            plain += weight * value;
            plain_total += weight;
        }
        *out = if total > 0.0 { (sum / total) as f32 } else { (plain / plain_total) as f32 };
    }
}
