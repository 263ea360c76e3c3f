//! Bootstrap tokens whose time is over.

use std::time::Duration;

use isopod_client::Scope;
use isopod_reconcile::bootstrap_token::{TYPE, Verdict, judge};
use isopod_reconcile::plan::{Action, Plan};
use k8s_openapi::api::core::v1::Secret;

use crate::context::Context;
use crate::control_loop::{ControlLoop, Running};

pub(crate) fn register(context: &Context) -> Option<Running> {
    let secrets = context.informers.scoped::<Secret>(Scope::fields(&format!("type={TYPE}")));
    let mut control = ControlLoop::new(context, "token_cleaner", "token-cleaner");
    control.workers(1);
    control.of(&secrets);
    let (secrets, context) = (secrets.store(), context.clone());
    Some(control.run(move |key, _| {
        let mut plan = Plan::nothing();
        let Some(secret) = secrets.get(key) else { return plan };
        let now = context.now();
        match judge(&secret, now) {
            Verdict::Keep => {}
            Verdict::Until(end) => {
                let left = Duration::try_from(end.duration_since(now)).unwrap_or_default();
                // Clocks read a moment too early would otherwise come back at once.
                plan.requeue_after = Some(left + Duration::from_millis(100));
            }
            Verdict::Delete => plan.push(Action::delete(secret.as_ref())),
        }
        plan
    }))
}
