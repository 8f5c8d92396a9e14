//! The evaluator: tasks as data, prompts, requests to a model, metrics, how models compare, and the
//! [`decoder`] that computes them.
//!
//! A task file becomes a [`task::Task`], its dataset [`items::Items`], those requests to a
//! [`LanguageModel`], whose answers become [`results::TaskResult`]s ([`run`] does all of it for a
//! model); [`mod@compare`] sets those of several models side by side, and [`gate`] and [`report`] say
//! what that means. [`evaluation`] is all of it, as `cognate eval` and a recipe's `evaluate` ask for it.

pub mod chat;
pub mod compare;
pub mod dataset;
pub mod decoder;
pub mod encode;
pub mod evaluation;
mod examples;
pub mod filter;
pub mod gate;
pub mod items;
pub mod metric;
pub mod model;
mod paired;
pub mod pattern;
pub mod probe;
pub mod prompt;
pub mod python_random;
pub mod report;
pub mod request;
pub mod results;
pub mod run;
pub mod score;
pub mod statistics;
pub mod task;
pub mod template;

pub use evaluation::{Contender, Evaluation, Report, Settings};
pub use model::{GenerateRequest, Generation, LanguageModel, Sampling, Score, ScoreRequest, Until};
