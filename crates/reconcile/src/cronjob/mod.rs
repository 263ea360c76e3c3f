//! CronJobs: a Job at each scheduled time, by the concurrency policy; old Jobs are tidied away.
//!
//! The Job's name follows from its scheduled time, so that a time never makes two Jobs.
//! Matches upstream's pkg/controller/cronjob.

pub mod schedule;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::job::{condition, finished};
use crate::meta::{Meta, controller_ref, plus_seconds, reference, set_annotation, time, until};
use crate::plan::{Action, Event, Plan, Propagation, Step, Tail, Tolerate, Write};
use schedule::Schedule;

/// Annotation of a Job with the time it was scheduled for.
pub const SCHEDULED_AT: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// Missed times after which a warning says so.
const MISSED_MAX: usize = 100;

/// Decides for one CronJob. `jobs` are those it controls; `zone` is its time zone, `None` if there is none of the name.
pub fn reconcile(cron: &Arc<CronJob>, jobs: &[Arc<Job>], zone: Option<&TimeZone>, now: Timestamp) -> Plan {
    let mut plan = Plan::nothing();
    let spec = &cron.spec;
    let mut status = cron.status.clone().unwrap_or_default();
    follow(cron, jobs, &mut status, &mut plan);
    tidy(cron, spec, jobs, &mut plan);
    if !cron.deleting() && spec.suspend != Some(true) {
        schedule_next(cron, spec, jobs, &mut status, zone, now, &mut plan);
    }
    if plan.then.is_none() && status != cron.status.clone().unwrap_or_default() {
        plan.push(with_status(cron, status));
    }
    plan
}

fn with_status(cron: &CronJob, status: CronJobStatus) -> Action {
    let mut copy = cron.clone();
    copy.status = Some(status);
    Action::update_status(&copy).tolerating(Tolerate { not_found: true, ..Tolerate::default() })
}

/// Keeps the list of active Jobs and the time of the last success.
fn follow(cron: &CronJob, jobs: &[Arc<Job>], status: &mut CronJobStatus, plan: &mut Plan) {
    let about = || reference(cron);
    let mut active = status.active.take().unwrap_or_default();
    for job in jobs {
        let place = active.iter().position(|entry| entry.uid.as_deref() == Some(job.uid()));
        let end = finished(job);
        match (place, end) {
            (None, None) => {
                let text = format!("Saw a job that the controller did not create or forgot: {}", job.name());
                plan.note(Event::warning(about(), "UnexpectedJob", text));
            }
            (Some(place), Some(end)) => {
                active.remove(place);
                let text = format!("Saw completed job: {}, condition: {}", job.name(), end.type_);
                plan.note(Event::normal(about(), "SawCompletedJob", text));
            }
            _ => {}
        }
        if condition(job, "Complete").is_some()
            && let Some(at) = job.status.as_ref().and_then(|status| status.completion_time.clone())
            && status.last_successful_time.as_ref().is_none_or(|last| last.0 < at.0)
        {
            status.last_successful_time = Some(at);
        }
    }
    active.retain(|entry| {
        let known = jobs.iter().any(|job| entry.uid.as_deref() == Some(job.uid()));
        if !known {
            let text = format!("Active job went missing: {}", entry.name.as_deref().unwrap_or_default());
            plan.note(Event::normal(about(), "MissingJob", text));
        }
        known
    });
    status.active = (!active.is_empty()).then_some(active);
}

/// Deletes finished Jobs beyond the limits, oldest first.
fn tidy(cron: &CronJob, spec: &CronJobSpec, jobs: &[Arc<Job>], plan: &mut Plan) {
    for (kind, limit) in [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ] {
        let mut ended: Vec<&Arc<Job>> =
            jobs.iter().filter(|job| condition(job, kind).is_some() && !job.deleting()).collect();
        let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        let start = |job: &Job| job.status.as_ref().and_then(|s| s.start_time.as_ref()).map(|time| time.0);
        ended.sort_by(|a, b| start(a).cmp(&start(b)).then_with(|| a.name().cmp(b.name())));
        plan.steps.extend(ended.into_iter().take(surplus).map(|job| Step::One(delete(cron, job))));
    }
}

fn delete(cron: &CronJob, job: &Job) -> Action {
    let failed = Event::warning(reference(cron), "FailedDelete", "Deleted job: ").tail(Tail::Error);
    Action::delete(job)
        .propagation(Propagation::Background)
        .ok_event(Event::normal(reference(cron), "SuccessfulDelete", format!("Deleted job {}", job.name())))
        .err_event(failed)
}

fn schedule_next(
    cron: &Arc<CronJob>,
    spec: &CronJobSpec,
    jobs: &[Arc<Job>],
    status: &mut CronJobStatus,
    zone: Option<&TimeZone>,
    now: Timestamp,
    plan: &mut Plan,
) {
    let about = || reference(cron.as_ref());
    let Some(zone) = zone else {
        let name = spec.time_zone.as_deref().unwrap_or_default();
        let text = format!("invalid timeZone: \"{name}\": unknown time zone {name}");
        plan.note(Event::warning(about(), "UnknownTimeZone", text));
        return;
    };
    let schedule = match Schedule::parse(&spec.schedule) {
        Ok(schedule) => schedule,
        Err(error) => {
            let text = format!("unparseable schedule: \"{}\" : {error}", spec.schedule);
            plan.note(Event::warning(about(), "UnparseableCronJobSchedule", text));
            return;
        }
    };
    if let Some(next) = schedule.next(now, zone) {
        // A little later, so that the clock is surely past it.
        plan.requeue(until(next, now) + std::time::Duration::from_millis(100));
    }
    let last = status.last_schedule_time.as_ref().map(|time| time.0);
    let mut earliest = last.or_else(|| cron.created()).unwrap_or(now);
    if let Some(deadline) = spec.starting_deadline_seconds {
        earliest = earliest.max(plus_seconds(now, -deadline));
    }
    let Some(at) = schedule.latest(earliest, now, zone) else { return };
    warn_of_missed(cron, &schedule, earliest, now, zone, plan);
    if spec.starting_deadline_seconds.is_some_and(|deadline| plus_seconds(at, deadline) < now) {
        let text = format!("Missed scheduled time to start a job: {at}");
        plan.note(Event::warning(about(), "MissSchedule", text));
        return;
    }
    let name = format!("{}-{}", cron.name(), at.as_second() / 60);
    let active = status.active.clone().unwrap_or_default();
    if last == Some(at) || active.iter().any(|entry| entry.name.as_deref() == Some(&name)) {
        return;
    }
    match spec.concurrency_policy.as_deref() {
        Some("Forbid") if !active.is_empty() => {
            let text = "Not starting job because prior execution is running and concurrency policy is Forbid";
            plan.note(Event::normal(about(), "JobAlreadyActive", text));
            return;
        }
        Some("Replace") => {
            for job in jobs.iter().filter(|job| active.iter().any(|e| e.uid.as_deref() == Some(job.uid()))) {
                plan.push(delete(cron, job));
            }
            status.active = None;
        }
        _ => {}
    }
    start(cron, spec, status.clone(), name, at, zone, plan);
}

fn warn_of_missed(
    cron: &CronJob,
    schedule: &Schedule,
    earliest: Timestamp,
    now: Timestamp,
    zone: &TimeZone,
    plan: &mut Plan,
) {
    let (mut count, mut at) = (0, earliest);
    while let Some(next) = schedule.next(at, zone).filter(|next| *next <= now) {
        count += 1;
        at = next;
        if count > MISSED_MAX {
            let text = "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew";
            plan.note(Event::warning(reference(cron), "TooManyMissedTimes", text));
            return;
        }
    }
}

/// Creates the Job and notes it in the status.
fn start(
    cron: &Arc<CronJob>,
    spec: &CronJobSpec,
    mut status: CronJobStatus,
    name: String,
    at: Timestamp,
    zone: &TimeZone,
    plan: &mut Plan,
) {
    let of = spec.job_template.metadata.clone().unwrap_or_default();
    let mut job = Job {
        metadata: ObjectMeta {
            name: Some(name.clone()),
            namespace: cron.metadata.namespace.clone(),
            labels: of.labels,
            annotations: of.annotations,
            owner_references: Some(vec![controller_ref(cron.as_ref())]),
            ..ObjectMeta::default()
        },
        spec: spec.job_template.spec.clone(),
        status: None,
    };
    set_annotation(&mut job.metadata, SCHEDULED_AT, local_time(at, spec, zone));
    let about = reference(cron.as_ref());
    let created = Event::normal(about.clone(), "SuccessfulCreate", format!("Created job {name}"));
    let failed = Event::warning(about, "FailedCreate", "Error creating job: ").tail(Tail::Error);
    let action = Action::create(&job).ok_event(created).err_event(failed).tolerating(Tolerate {
        already_exists: true,
        terminating: true,
        ..Tolerate::default()
    });
    debug_assert!(matches!(action.write, Write::Create { .. }));
    plan.push(action);
    let cron = cron.clone();
    plan.then = Some(Box::new(move |outcome| {
        let mut next = Plan::nothing();
        match outcome.results.last() {
            Some(Ok(made)) => {
                let text = |path: &str| made.pointer(path).and_then(|v| v.as_str()).map(str::to_owned);
                status.active.get_or_insert_default().push(ObjectReference {
                    api_version: Some("batch/v1".to_owned()),
                    kind: Some("Job".to_owned()),
                    name: text("/metadata/name"),
                    namespace: text("/metadata/namespace"),
                    uid: text("/metadata/uid"),
                    resource_version: text("/metadata/resourceVersion"),
                    field_path: None,
                });
                status.last_schedule_time = Some(time(at));
            }
            // Made before, by a pass whose status update was lost.
            Some(Err(error)) if error.is_already_exists() => status.last_schedule_time = Some(time(at)),
            _ => {}
        }
        if status != cron.status.clone().unwrap_or_default() {
            next.push(with_status(&cron, status));
        }
        next
    }));
}

/// RFC 3339 in the CronJob's own zone, or UTC.
fn local_time(at: Timestamp, spec: &CronJobSpec, zone: &TimeZone) -> String {
    if spec.time_zone.is_none() {
        return time(at).0.to_string();
    }
    let zoned = at.to_zoned(zone.clone());
    zoned.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}
