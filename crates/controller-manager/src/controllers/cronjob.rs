//! CronJobs: fed by their Jobs and by the clock.

use isopod_client::store::{BY_CONTROLLER_UID, controller_uid};
use isopod_reconcile::cronjob::reconcile;
use isopod_reconcile::meta::Meta;
use isopod_reconcile::plan::Plan;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, Job};

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

pub(crate) fn register(context: &Context) -> Option<Running> {
    let crons = context.informers.get::<CronJob>();
    let jobs = context.informers.get::<Job>();
    jobs.add_index(BY_CONTROLLER_UID, controller_uid);
    let mut control = ControlLoop::new(context, "cronjob", "cronjob-controller");
    control.of(&crons);
    control.owns::<CronJob, Job>(&jobs, |_, _| {});
    let (crons, jobs, context) = (crons.store(), jobs.store(), context.clone());
    Some(control.run(move |key, settled| {
        let Some(cron) = crons.get(key).filter(|_| settled) else { return Plan::nothing() };
        let mine = jobs.by_index(BY_CONTROLLER_UID, cron.uid());
        let zone = match &cron.spec.time_zone {
            None => Some(TimeZone::UTC),
            Some(name) => TimeZone::get(name).ok(),
        };
        reconcile(&cron, &mine, zone.as_ref(), context.now())
    }))
}
