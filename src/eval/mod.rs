//! The evaluator: models that score and continue text.

pub mod decoder;
pub mod model;
