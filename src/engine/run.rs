//! A whole run: jobs over threads, digests of what no job read, the shards synced.

use super::digests::{Digest, DigestMode, Digests};
use super::job::Context;
use super::shard_files::{ShardFiles, WRITERS};
use super::whole::SideBySide;
use super::{CHUNK, Lanes, ModelIo, NanPolicy, Progress, Staging};
use crate::error::{Error, Result};
use crate::kernels::Kernels;
use crate::methods::{Part, Survey, Surveyed};
use crate::model::Checkpoint;
use crate::plan::{Job, Plan};
use rayon::prelude::*;
use sha2::{Digest as _, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::OnceLock;

/// How to run a plan.
pub struct RunOptions<'a> {
    /// Which digests to compute.
    pub digests: DigestMode,
    /// Folder of the digest cache; none to do without.
    pub cache: Option<PathBuf>,
    /// Whether a NaN in an input stays in its element instead of being an error.
    pub allow_nan: bool,
    /// The kernels to compute with.
    pub kernels: Kernels,
    /// Who is told how far the run is.
    pub progress: &'a Progress,
}

/// What a run leaves to record.
pub struct Outcome {
    /// The digest of each job's output, in job order; none where they were not asked for.
    pub outputs: Vec<Option<Digest>>,
    /// The digests of each model's tensors, by name; empty where they were not asked for.
    pub inputs: Vec<BTreeMap<String, Digest>>,
    /// Jobs an interrupted run had done already.
    pub resumed: usize,
}

/// Runs the plan into the staging folder. The shards are complete and synced when it returns.
///
/// # Errors
/// An input cannot be read or changed meanwhile, a NaN was met, the output cannot be written.
pub fn run(
    plan: &Plan,
    models: &[Checkpoint],
    staging: &Staging,
    options: &RunOptions<'_>,
) -> Result<Outcome> {
    run_jobs_of(plan, models, Some(staging), None, options)
}

/// Some tensors of a plan: the jobs that make them, and the stored tensors of the models (by the model's
/// number and their names) whose digests are asked for.
pub(crate) struct Asked {
    /// Indices of jobs.
    pub(crate) jobs: BTreeSet<usize>,
    /// Models and tensors.
    pub(crate) inputs: BTreeSet<(usize, String)>,
}

/// Makes some outputs of a plan again, as [`run`] would, and keeps nothing but their digests.
///
/// # Errors
/// As those of [`run`], but for writing.
pub(crate) fn recompute(
    plan: &Plan,
    models: &[Checkpoint],
    asked: &Asked,
    options: &RunOptions<'_>,
) -> Result<Outcome> {
    run_jobs_of(plan, models, None, Some(asked), options)
}

fn run_jobs_of(
    plan: &Plan,
    models: &[Checkpoint],
    staging: Option<&Staging>,
    asked: Option<&Asked>,
    options: &RunOptions<'_>,
) -> Result<Outcome> {
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(plan.lanes)
        .thread_name(|i| format!("merge-{i}"))
        .build()
        .map_err(|e| Error::internal(format!("cannot start threads: {e}")))?;
    let files = match staging {
        Some(staging) => ShardFiles::create(staging, &plan.shards)?,
        None => ShardFiles::nowhere(),
    };
    let digests = (options.digests == DigestMode::Full)
        .then(|| Digests::new(models, options.cache.as_deref()));
    options.progress.begin(match asked {
        Some(asked) => asked.jobs.iter().map(|at| plan.jobs[*at].output.bytes() as u64).sum(),
        None => plan.totals.write,
    });
    let (queue, queued) = files.queue();
    let done = std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| files.write_queued(&queued));
        }
        // Dropped at the end of this closure, even by a panic, which ends the writers.
        let context = Context {
            plan,
            models,
            output: queue,
            digests: digests.as_ref(),
            hash_outputs: options.digests != DigestMode::None,
            kernels: options.kernels,
            nan: if options.allow_nan { NanPolicy::Keep } else { NanPolicy::Refuse },
            progress: options.progress,
        };
        pool.install(|| run_jobs(&context, staging, asked.map(|asked| &asked.jobs)))
    });
    files.written()?;
    let (outputs, resumed) = done?;
    if let Some(digests) = &digests {
        pool.install(|| match asked {
            Some(asked) => digests.complete_those(models, |model, tensor| {
                asked.inputs.contains(&(model, tensor.to_string()))
            }),
            None => digests.complete(models),
        })?;
        if let Some(cache) = &options.cache {
            digests.save(models, cache);
        }
    }
    files.sync()?;
    for shard in models.iter().flat_map(Checkpoint::shards) {
        shard.mapping.unchanged()?;
    }
    options.progress.end();
    let of_model =
        |i: usize| digests.as_ref().map(|digests| digests.of_model(i)).unwrap_or_default();
    let inputs = (0..models.len()).map(|i| {
        of_model(i).into_iter().map(|(name, digest)| (name.to_string(), digest)).collect()
    });
    Ok(Outcome { outputs, inputs: inputs.collect(), resumed })
}

/// Runs every job (of those asked for, if any are) that an interrupted run has not done; returns the
/// digests in job order.
fn run_jobs(
    context: &Context<'_>,
    staging: Option<&Staging>,
    asked: Option<&BTreeSet<usize>>,
) -> Result<(Vec<Option<Digest>>, usize)> {
    let jobs = &context.plan.jobs;
    let slots: Vec<OnceLock<Option<Digest>>> = jobs.iter().map(|_| OnceLock::new()).collect();
    if let Some(staging) = staging {
        jobs.par_iter()
            .zip(&slots)
            .try_for_each(|(job, slot)| still_there(context, staging, job, slot))?;
    }
    let resumed = slots.iter().filter(|slot| slot.get().is_some()).count();
    let surveyed = survey(context)?;
    let finish = |at: usize, lanes: Lanes| -> Result<()> {
        let digest = context.run(&jobs[at], lanes, surveyed.get(&at))?;
        let _ = slots[at].set(digest);
        Ok(())
    };
    // Threads share the chunks of a tensor that would keep one of them busy for long after the
    // others are done, and take a tensor each otherwise.
    let left = (0..jobs.len()).filter(|at| slots[*at].get().is_none());
    let left = left.filter(|at| asked.is_none_or(|asked| asked.contains(at)));
    let (whole, streaming): (Vec<usize>, Vec<usize>) = left.partition(|at| jobs[*at].whole() > 0);
    let (wide, narrow): (Vec<usize>, Vec<usize>) =
        streaming.into_iter().partition(|at| is_wide(context.plan, &jobs[*at]));
    wide.into_iter().try_for_each(|at| finish(at, Lanes::Pool))?;
    let whole = whole.into_iter().map(|at| (at, jobs[at].whole())).collect();
    SideBySide::new(whole, narrow, context.plan.whole).run(|at, upcoming| {
        // The tensor that is next in line for this thread is read in while it works on this one.
        if let Some(next) = upcoming {
            let inputs = context.sources(&jobs[next])?;
            context.io(&jobs[next], &inputs, &[], Lanes::One).prefetch_start();
        }
        finish(at, Lanes::One)
    })?;
    let outputs = slots.into_iter().map(|slot| slot.into_inner().flatten()).collect();
    Ok((outputs, resumed))
}

/// Surveys the whole model for the jobs whose method asks for it, each method's together; what was found by
/// job.
fn survey(context: &Context<'_>) -> Result<BTreeMap<usize, Surveyed>> {
    let jobs = &context.plan.jobs;
    let mut asking: BTreeMap<&str, (&Survey, Vec<usize>)> = BTreeMap::new();
    for (at, job) in jobs.iter().enumerate() {
        if let Some(survey) = (job.method.survey)(&job.params) {
            asking.entry(job.method.name).or_insert((survey, Vec::new())).1.push(at);
        }
    }
    let mut all = BTreeMap::new();
    for (survey, asking) in asking.into_values() {
        let inputs =
            asking.iter().map(|at| context.sources(&jobs[*at])).collect::<Result<Vec<_>>>()?;
        let tensors = asking.iter().zip(&inputs);
        let tensors = tensors.map(|(at, inputs)| context.io(&jobs[*at], inputs, &[], Lanes::One));
        let parts: Vec<Part<'_>> = asking.iter().map(|at| part(&jobs[*at])).collect();
        let found = (survey.make)(&ModelIo::new(tensors.collect()), &parts)?;
        all.extend(asking.into_iter().zip(found));
    }
    Ok(all)
}

/// The models of a job's inputs, and its parameters.
fn part(job: &Job) -> Part<'_> {
    let models = job.inputs[..job.streamed()].iter().map(|input| input.model);
    Part { models: models.collect(), params: &job.params }
}

fn is_wide(plan: &Plan, job: &Job) -> bool {
    let share = plan.totals.parameters / (8 * plan.lanes as u64);
    let elements = job.output.elements();
    plan.lanes > 1 && elements as u64 > share && elements >= 4 * CHUNK
}

/// Checks a tensor that the journal calls written against its digest.
fn still_there(
    context: &Context<'_>,
    staging: &Staging,
    job: &Job,
    slot: &OnceLock<Option<Digest>>,
) -> Result<()> {
    let Some(expected) = staging.done().get(&job.output.name).filter(|_| context.hash_outputs)
    else {
        return Ok(());
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut left = job.output.bytes();
    let mut offset = job.offset;
    while left > 0 {
        let now = left.min(buffer.len());
        context.output.files().read(job.shard, offset, &mut buffer[..now])?;
        hasher.update(&buffer[..now]);
        left -= now;
        offset += now as u64;
    }
    let found: Digest = hasher.finalize().into();
    if found == *expected {
        context.progress.advance(job.output.bytes() as u64);
        let _ = slot.set(Some(found));
    }
    Ok(())
}
