//! `RemappedRows`: a model's embedding as if the model had the output's vocabulary.
//!
//! Rows the model has come from where they stand; rows it lacks are computed from other models' rows
//! when they are read. The rules are mergekit's (`tokenizer/embed.py` of 0.1.5); what they decided
//! stands in [`Rows`], made from vocabularies alone.

use super::source::{Source, TensorSpec};
use crate::error::{Error, Result};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// In [`Rows::own`]: the model has no such row.
pub(crate) const NONE: u32 = u32::MAX;

/// Where a row comes from for the models that do not have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Zeros.
    Zero,
    /// A row of one of the models.
    Row {
        /// The model's place among [`Rows::own`].
        member: u32,
        /// Its row.
        row: u32,
    },
    /// The mean of the rows of the models that have it, in f32, added in their order.
    Mean,
    /// The mean of all rows that stand for tokens (of this model's view), in f64.
    Average,
}

/// For some models that are merged, which of their rows make the rows of the output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rows {
    /// For each model, its row for each row of the output, or [`NONE`].
    pub(crate) own: Vec<Vec<u32>>,
    /// For each row of the output, where it comes from for the models that lack it.
    pub(crate) missing: Vec<Missing>,
}

impl Rows {
    /// Rows of the output.
    pub(crate) fn count(&self) -> usize {
        self.missing.len()
    }

    /// Whether the output's rows are this model's, one by one.
    pub(crate) fn unchanged(&self, member: usize, rows: usize) -> bool {
        rows == self.count() && (0u32..).zip(&self.own[member]).all(|(row, own)| row == *own)
    }
}

/// A model's embedding, output head or its bias, in the output's vocabulary.
pub(crate) struct RemappedRows {
    spec: TensorSpec,
    rows: Arc<Rows>,
    /// The tensor in each model, as far as it has one.
    sources: Arc<[Option<Arc<dyn Source>>]>,
    inner: Arc<dyn Source>,
    member: usize,
    width: usize,
    average: OnceLock<Vec<f32>>,
}

impl RemappedRows {
    /// The tensor of the model `member`, seen through `rows`. Tensors are `[vocabulary, …]`; all are
    /// as wide, and hold every row that `rows` names.
    ///
    /// # Errors
    /// A tensor has other dimensions behind the first, or too few rows, or its model lacks it.
    pub(crate) fn new(
        rows: Arc<Rows>,
        sources: Arc<[Option<Arc<dyn Source>>]>,
        member: usize,
    ) -> Result<Self> {
        let inner = sources.get(member).cloned().flatten();
        let inner = inner.ok_or_else(|| Error::internal("a remapped tensor is not there"))?;
        let mut spec = inner.spec().clone();
        let tail = spec.shape.get(1..).unwrap_or_default().to_vec();
        for (own, source) in rows.own.iter().zip(sources.iter()) {
            let Some(source) = source else { continue };
            let theirs = source.spec();
            if theirs.shape.get(1..) != Some(&tail) || theirs.float().is_none() {
                return Err(Error::input("the models disagree on the shape of a tensor")
                    .tensor(&spec.name)
                    .expected(
                        format!("any number of rows of {tail:?}"),
                        format!("{:?} {:?}", theirs.dtype, theirs.shape),
                    )
                    .hint("only the vocabulary's dimension may differ"));
            }
            let count = theirs.shape.first().copied().unwrap_or(0);
            if own.iter().any(|row| *row != NONE && *row as usize >= count) {
                return Err(Error::internal("a row behind the last one").tensor(&spec.name));
            }
        }
        let width = tail.iter().try_fold(1usize, |width, n| width.checked_mul(*n));
        let elements = width.and_then(|width| width.checked_mul(rows.count())?.checked_mul(8));
        let (Some(width), Some(_)) = (width, elements) else {
            return Err(Error::input("a tensor would be too large").tensor(&spec.name));
        };
        if let Some(first) = spec.shape.first_mut() {
            *first = rows.count();
        }
        Ok(Self { spec, rows, sources, inner, member, width, average: OnceLock::new() })
    }

    fn own(&self) -> &[u32] {
        &self.rows.own[self.member]
    }

    /// The stored elements behind a run of rows that follow each other in the model, too.
    fn run(&self, first: usize, last: usize) -> usize {
        let own = self.own();
        let mut end = first + 1;
        while end < last && own[end] != NONE && own[end] == own[end - 1] + 1 {
            end += 1;
        }
        end
    }

    fn source(&self, member: usize) -> Result<&dyn Source> {
        self.sources[member].as_deref().ok_or_else(|| {
            Error::input("a token's row comes from a model that lacks the tensor")
                .tensor(&self.spec.name)
        })
    }

    /// Elements `at` on of a row that the model lacks.
    fn missing(&self, row: usize, at: usize, out: &mut [f32]) -> Result<bool> {
        match self.rows.missing[row] {
            Missing::Zero => {
                out.fill(0.0);
                Ok(false)
            }
            Missing::Row { member, row } => {
                self.source(member as usize)?.read(row as usize * self.width + at, out)
            }
            Missing::Mean => {
                out.fill(0.0);
                let mut piece = vec![0.0; out.len()];
                let (mut count, mut nan) = (0u32, false);
                for (own, source) in self.rows.own.iter().zip(self.sources.iter()) {
                    let Some(source) = source.as_ref().filter(|_| own[row] != NONE) else {
                        continue;
                    };
                    nan |= source.read(own[row] as usize * self.width + at, &mut piece)?;
                    out.iter_mut().zip(&piece).for_each(|(sum, x)| *sum += x);
                    count += 1;
                }
                out.iter_mut().for_each(|sum| *sum /= count.max(1) as f32);
                Ok(nan)
            }
            Missing::Average => {
                let average = self.average()?;
                out.copy_from_slice(&average[at..at + out.len()]);
                Ok(out.iter().any(|x| x.is_nan()))
            }
        }
    }

    /// The mean over the rows that stand for tokens: f64 sums, row by row in their order.
    fn average(&self) -> Result<&[f32]> {
        if let Some(average) = self.average.get() {
            return Ok(average);
        }
        let mut sums = vec![0.0f64; self.width];
        let mut row = vec![0.0; self.width];
        let mut count = 0u64;
        for at in 0..self.rows.count() {
            if self.own()[at] == NONE && self.rows.missing[at] == Missing::Average {
                continue;
            }
            self.read(at * self.width, &mut row)?;
            sums.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
            count += 1;
        }
        let mean = sums.into_iter().map(|sum| (sum / count.max(1) as f64) as f32);
        // Two threads may both have come here; they found the same.
        Ok(self.average.get_or_init(|| mean.collect()))
    }

    /// The model's own elements behind a range of the output's: from the least row to the largest.
    fn behind(&self, elements: Range<usize>) -> Option<Range<usize>> {
        let width = self.width.max(1);
        let rows = elements.start / width..elements.end.div_ceil(width).min(self.rows.count());
        let own = self.own().get(rows.clone())?.iter().filter(|row| **row != NONE);
        let (least, most) = (own.clone().min()?, own.max()?);
        // Rows that are spread out are left to the system.
        let spread = (most - least) as usize > 2 * rows.len();
        (!spread).then(|| *least as usize * width..(*most as usize + 1) * width)
    }
}

impl Source for RemappedRows {
    fn spec(&self) -> &TensorSpec {
        &self.spec
    }

    fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
        let end = start.checked_add(out.len()).filter(|end| *end <= self.spec.elements());
        let end = end.ok_or_else(|| {
            Error::internal("a read past the end of a tensor").tensor(&self.spec.name)
        })?;
        let (mut at, mut nan) = (start, false);
        while at < end {
            let row = at / self.width;
            let own = self.own()[row];
            let until = match own {
                NONE => row + 1,
                _ => self.run(row, end.div_ceil(self.width)),
            };
            let stop = (until * self.width).min(end);
            let piece = &mut out[at - start..stop - start];
            nan |= match own {
                NONE => self.missing(row, at % self.width, piece)?,
                own => self.inner.read(own as usize * self.width + at % self.width, piece)?,
            };
            at = stop;
        }
        Ok(nan)
    }

    fn parts(&self) -> Vec<&str> {
        self.inner.parts()
    }

    fn origin(&self) -> Option<&Path> {
        self.inner.origin()
    }

    fn prefetch(&self, elements: Range<usize>) {
        if let Some(behind) = self.behind(elements) {
            self.inner.prefetch(behind);
        }
    }

    fn release(&self, elements: Range<usize>) {
        if let Some(behind) = self.behind(elements) {
            self.inner.release(behind);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;

    struct Counted(TensorSpec, f32);

    impl Source for Counted {
        fn spec(&self) -> &TensorSpec {
            &self.0
        }

        fn read(&self, start: usize, out: &mut [f32]) -> Result<bool> {
            assert!(start + out.len() <= self.0.elements());
            (start..).zip(out).for_each(|(i, x)| *x = self.1 + i as f32);
            Ok(false)
        }
    }

    fn tensor(rows: usize, first: f32) -> Option<Arc<dyn Source>> {
        let spec = TensorSpec { name: "e".into(), dtype: Dtype::F32, shape: vec![rows, 3] };
        Some(Arc::new(Counted(spec, first)))
    }

    fn view(member: usize) -> RemappedRows {
        let rows = Rows {
            own: vec![vec![0, 1, NONE, NONE, NONE, NONE], vec![2, NONE, 0, 1, NONE, NONE]],
            missing: vec![
                Missing::Mean,
                Missing::Row { member: 0, row: 1 },
                Missing::Mean,
                Missing::Row { member: 1, row: 1 },
                Missing::Zero,
                Missing::Average,
            ],
        };
        let sources: Arc<[_]> = Arc::new([tensor(2, 0.0), tensor(3, 100.0)]);
        RemappedRows::new(Arc::new(rows), sources, member).unwrap()
    }

    #[test]
    fn rows_come_from_where_the_table_says() {
        let read = |view: &RemappedRows| {
            let mut all = vec![0.0; view.spec().elements()];
            view.read(0, &mut all).unwrap();
            all
        };
        assert_eq!(view(0).spec().shape, [6, 3]);
        let rows = [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0], [100.0, 101.0, 102.0], [103.0, 104.0, 105.0]];
        let mut expected = rows.concat();
        expected.extend([0.0; 3]);
        expected.extend([41.2, 42.0, 42.8]);
        assert_eq!(read(&view(0)), expected);
        assert_eq!(read(&view(1))[..3], [106.0, 107.0, 108.0]);
        assert_eq!(read(&view(1))[3..6], [3.0, 4.0, 5.0]);
    }

    #[test]
    fn any_range_reads_the_same() {
        for member in 0..2 {
            let view = view(member);
            let mut all = vec![0.0; 18];
            view.read(0, &mut all).unwrap();
            for start in 0..18 {
                for end in start..=18 {
                    let mut part = vec![0.0; end - start];
                    view.read(start, &mut part).unwrap();
                    assert_eq!(part, all[start..end], "{start}..{end}");
                }
            }
            assert!(view.read(17, &mut [0.0; 2]).is_err());
        }
    }
}
