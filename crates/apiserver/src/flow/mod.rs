//! Priority and fairness: how many requests run at once, who waits, and for whom.
//!
//! Each request belongs to a flow of a FlowSchema, and that to a priority level with seats of its own; what decides
//! stands in `isopod_rules::flowcontrol`, pure, here is the waiting. Callers in this process are told apart like
//! all others: a request that finds a free seat costs one short lock. Watches take a seat until their first events
//! are made, streams to containers and proxied requests take none, as upstream. The objects are read by
//! [`configure::keep`]; until then the built-in ones count.

pub(crate) mod configure;
mod level;
mod metrics;
mod watches;

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use isopod_rules::flowcontrol::level::{PriorityLevel, Queuing, Seats, seats};
use isopod_rules::flowcontrol::queues::Refusal;
use isopod_rules::flowcontrol::schema::{FlowSchema, Subject, in_order};
use isopod_rules::flowcontrol::{bootstrap, level as rules};
use parking_lot::RwLock;

use isopod_api::status::Status;

pub(crate) use level::{Kind, Seat};
use level::{Level, Pool};
use metrics::SchemaMetrics;
pub(crate) use watches::{WatchPlace, Watches};

use crate::context::Ctx;

/// Objects of a list that one more seat is taken for; upstream's figure.
const OBJECTS_PER_SEAT: usize = 100;
/// Most seats that one list takes, and the percentage of its level's seats that it takes at most.
const LIST_SEATS_MAX: u32 = 10;
const LIST_SEATS_PERCENT: u32 = 15;

/// Tell the client which objects decided about its request.
const SCHEMA_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-flowschema-uid");
const LEVEL_HEADER: HeaderName = HeaderName::from_static("x-kubernetes-pf-prioritylevel-uid");

/// A FlowSchema with what is found once for all its requests.
pub(crate) struct Schema {
    rule: FlowSchema,
    uid: HeaderValue,
    level: Arc<Level>,
    level_uid: HeaderValue,
    metrics: SchemaMetrics,
}

impl std::fmt::Debug for Schema {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Schema({})", self.rule.name)
    }
}

impl Schema {
    /// Names the objects in an answer.
    pub(crate) fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(SCHEMA_HEADER, self.uid.clone());
        headers.insert(LEVEL_HEADER, self.level_uid.clone());
    }
}

/// What is configured now.
#[derive(Default)]
struct State {
    /// In the order they are asked; the last one fits all that authentication lets through.
    schemas: Vec<Arc<Schema>>,
    levels: HashMap<String, Arc<Level>>,
}

/// The seats of a server.
pub(crate) struct Flow {
    state: RwLock<Arc<State>>,
    pool: Arc<Pool>,
    /// Seeded at random, so that nobody can choose a name whose requests meet another's in all queues.
    hasher: RandomState,
    /// Watches of each client.
    pub(crate) watches: Arc<Watches>,
}

impl Flow {
    /// Seats for `total` requests, dealt as the built-in objects say.
    pub(crate) fn new(total: u32) -> Flow {
        let flow = Flow {
            state: RwLock::default(),
            pool: Arc::new(Pool::new(total)),
            hasher: RandomState::new(),
            watches: Arc::default(),
        };
        let levels = bootstrap::priority_levels().iter().map(PriorityLevel::of).collect();
        let schemas = bootstrap::flow_schemas().iter().map(FlowSchema::of).collect();
        flow.configure(levels, schemas);
        flow
    }

    /// Takes over the objects as they are now. Requests that run or wait stay with the level they came to.
    /// Schemas of levels that do not exist are left out.
    pub(crate) fn configure(&self, mut levels: Vec<PriorityLevel>, mut schemas: Vec<FlowSchema>) {
        // Whatever is stored, administrators get through and everybody belongs somewhere.
        for object in bootstrap::priority_levels().iter().map(PriorityLevel::of) {
            if bootstrap::MANDATORY.contains(&&*object.name) && !levels.iter().any(|l| l.name == object.name)
            {
                levels.push(object);
            }
        }
        for object in bootstrap::flow_schemas().iter().map(FlowSchema::of) {
            if bootstrap::MANDATORY.contains(&&*object.name) && !schemas.iter().any(|s| s.name == object.name)
            {
                schemas.push(object);
            }
        }
        let before = Arc::clone(&self.state.read());
        let mut now = State::default();
        let shares = seats(&levels, self.pool.total());
        for (level, seats) in levels.iter().zip(shares) {
            let made = match before.levels.get(&level.name) {
                Some(kept) if kept.is_exempt() == (level.kind == rules::Kind::Exempt) => Arc::clone(kept),
                _ => Arc::new(Level::new(
                    &level.name,
                    level.kind == rules::Kind::Exempt,
                    Arc::clone(&self.pool),
                )),
            };
            made.set(seats, queuing(&level.kind));
            now.levels.insert(level.name.clone(), made);
        }
        for (name, level) in &before.levels {
            if !now.levels.get(name).is_some_and(|kept| Arc::ptr_eq(kept, level)) {
                // Gone: what is still in it goes on with the seats it has, and keeps none from others.
                level.set(Seats { nominal: 1, reserved: 0, upper: 1 }, None);
            }
        }
        let value = |uid: &str| HeaderValue::from_str(uid).unwrap_or_else(|_| HeaderValue::from_static(""));
        for rule in in_order(schemas) {
            let Some(level) = now.levels.get(&rule.level) else { continue };
            let level_uid = levels.iter().find(|l| l.name == rule.level).map_or("", |l| &*l.uid);
            now.schemas.push(Arc::new(Schema {
                uid: value(&rule.uid),
                level: Arc::clone(level),
                level_uid: value(level_uid),
                metrics: SchemaMetrics::of(&rule.level, &rule.name),
                rule,
            }));
        }
        *self.state.write() = Arc::new(now);
    }

    /// The schema a request belongs to. `None` for what is neither authenticated nor anonymous.
    pub(crate) fn classify(&self, ctx: &Ctx) -> Option<(Arc<Schema>, u64)> {
        let subject = subject(ctx);
        let state = Arc::clone(&self.state.read());
        let schema = state.schemas.iter().find(|schema| schema.rule.fits(&subject))?;
        let flow = if schema.level.is_exempt() {
            0
        } else {
            self.hasher.hash_one((&schema.rule.name, schema.rule.flow(&subject)))
        };
        Some((Arc::clone(schema), flow))
    }

    /// Seats for a request of a flow, held until it is answered; waits a bounded time. `width` gives the number of
    /// them, of those that the level has.
    pub(crate) async fn seat(
        &self,
        schema: &Arc<Schema>,
        flow: u64,
        kind: Kind,
        width: impl FnOnce(u32) -> u32,
    ) -> Result<Seat, Status> {
        let width = if schema.level.is_exempt() { 1 } else { width(schema.level.nominal()) };
        match Level::enter(schema, flow, width, kind).await {
            Ok(seat) => Ok(seat),
            Err(refused) => {
                schema.metrics.rejected(refused.name());
                Err(Status::too_many_requests("Too many requests, please try again later.", 1))
            }
        }
    }

    /// Read-only and mutating requests running now.
    pub(crate) fn in_flight(&self) -> (usize, usize) {
        self.pool.in_flight()
    }
}

fn subject(ctx: &Ctx) -> Subject<'_> {
    let info = &ctx.info;
    Subject {
        user: &ctx.user,
        verb: &info.verb,
        is_resource: info.is_resource,
        group: &info.group,
        resource: &info.resource,
        subresource: &info.subresource,
        namespace: &info.namespace,
        path: &info.path,
    }
}

fn queuing(kind: &rules::Kind) -> Option<Queuing> {
    match kind {
        rules::Kind::Limited { queuing, .. } => *queuing,
        rules::Kind::Exempt => None,
    }
}

/// Seats of a list of `objects`, where the level has `nominal`: one for each hundred.
pub(crate) fn list_width(objects: usize, nominal: u32) -> u32 {
    let most = (nominal * LIST_SEATS_PERCENT / 100).clamp(1, LIST_SEATS_MAX);
    u32::try_from(objects.div_ceil(OBJECTS_PER_SEAT)).unwrap_or(u32::MAX).clamp(1, most)
}

/// Why a request got no seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    At(Refusal),
    TimeOut,
}

impl Refused {
    /// As upstream's metrics have it.
    fn name(self) -> &'static str {
        match self {
            Refused::At(Refusal::Concurrency) => "concurrency-limit",
            Refused::At(Refusal::QueueFull) => "queue-full",
            Refused::TimeOut => "time-out",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits;
    use crate::request_info::RequestInfo;
    use isopod_api::identity::{GROUP_MASTERS, UserInfo};
    use serde_json::json;

    const READ: Kind = Kind { read_only: true, watch: false };

    fn ctx(user: &UserInfo, method: &str, uri: &str) -> Ctx {
        let (parts, ()) = http::Request::builder().method(method).uri(uri).body(()).unwrap().into_parts();
        let info = RequestInfo::parse(&parts.method, parts.uri.path(), parts.uri.query());
        Ctx::new(user.clone(), info, parts, jiff::Timestamp::UNIX_EPOCH)
    }

    async fn enter(flow: &Flow, user: &str, width: u32) -> Result<Seat, Status> {
        let ctx = ctx(&UserInfo::authenticated(user, &[]), "GET", "/api/v1/pods");
        let (schema, hash) = flow.classify(&ctx).unwrap();
        flow.seat(&schema, hash, READ, |_| width).await
    }

    fn level(name: &str, shares: u32, lendable: u32, borrow: Option<u32>, queue: bool) -> PriorityLevel {
        let mut spec = json!({"type": "Limited", "limited": {"nominalConcurrencyShares": shares,
            "lendablePercent": lendable, "borrowingLimitPercent": borrow,
            "limitResponse": {"type": "Reject"}}});
        if queue {
            spec["limited"]["limitResponse"] = json!({"type": "Queue",
                "queuing": {"queues": 8, "handSize": 2, "queueLengthLimit": 3}});
        }
        PriorityLevel::of(&json!({"metadata": {"name": name}, "spec": spec}))
    }

    /// Ten seats, of which `global-default` has five.
    fn small(borrow: Option<u32>) -> Flow {
        let flow = Flow::new(10);
        let mut catch_all = level("catch-all", 0, 0, None, false);
        catch_all.uid = "c".into();
        let levels = vec![
            level("global-default", 5, 50, borrow, true),
            level("workload-low", 5, 60, None, true),
            catch_all,
        ];
        flow.configure(levels, bootstrap::flow_schemas().iter().map(FlowSchema::of).collect());
        flow
    }

    #[tokio::test(start_paused = true)]
    async fn beyond_the_seats_requests_wait_and_are_then_refused() {
        let flow = small(Some(0));
        let mut seats = Vec::new();
        for _ in 0..5 {
            seats.push(enter(&flow, "u", 1).await.unwrap());
        }
        assert_eq!(flow.in_flight(), (5, 0));
        let refused = enter(&flow, "u", 1).await.unwrap_err();
        assert_eq!((refused.code, refused.retry_after_seconds), (429, 1));
        // Administrators have room.
        let admin = ctx(&UserInfo::authenticated("a", &[GROUP_MASTERS]), "GET", "/api/v1/pods");
        let (schema, hash) = flow.classify(&admin).unwrap();
        assert_eq!(schema.rule.name, "exempt");
        drop(flow.seat(&schema, hash, READ, |_| 1).await.unwrap());
        // Whoever waits gets the next free seat.
        let waiting = enter(&flow, "u", 1);
        let free = async {
            tokio::task::yield_now().await;
            seats.pop();
        };
        let (got, ()) = tokio::join!(waiting, free);
        seats.push(got.unwrap());
        assert_eq!(flow.in_flight().0, 5);
        // Two queues of three: a seventh of the same flow is refused at once.
        let mut waiting: Vec<_> = (0..6).map(|_| Box::pin(enter(&flow, "u", 1))).collect();
        for one in &mut waiting {
            assert!(futures::poll!(one).is_pending());
        }
        let started = tokio::time::Instant::now();
        assert!(enter(&flow, "u", 1).await.is_err());
        assert_eq!(started.elapsed(), std::time::Duration::ZERO);
        // Those that give up leave their place, and no seat is lost.
        drop(waiting);
        drop(seats);
        assert_eq!(flow.in_flight(), (0, 0));
        let mut all = Vec::new();
        for _ in 0..5 {
            all.push(enter(&flow, "u", 1).await.unwrap());
        }
        assert!(futures::poll!(Box::pin(enter(&flow, "u", 1))).is_pending());
    }

    /// A seat that is given to somebody who has just gone is given to the next.
    #[tokio::test(start_paused = true)]
    async fn a_seat_is_not_lost_with_its_taker() {
        let flow = small(Some(0));
        let wide = enter(&flow, "u", 5).await.unwrap();
        let mut gone = Box::pin(enter(&flow, "u", 5));
        let mut next = Box::pin(enter(&flow, "v", 5));
        assert!(futures::poll!(&mut gone).is_pending() && futures::poll!(&mut next).is_pending());
        drop(wide);
        drop(gone);
        let seat = next.await.unwrap();
        assert_eq!(flow.in_flight().0, 1);
        drop(seat);
        assert_eq!(flow.in_flight().0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn idle_seats_are_lent_and_come_back() {
        let flow = small(None);
        let mut seats = Vec::new();
        // Its own five and the three that workload-low lends.
        for _ in 0..8 {
            seats.push(enter(&flow, "u", 1).await.unwrap());
        }
        assert!(futures::poll!(Box::pin(enter(&flow, "u", 1))).is_pending());
        // The lender has its own all the same, at once.
        let account = UserInfo::service_account("ns", "a", "");
        let (schema, hash) = flow.classify(&ctx(&account, "GET", "/api/v1/pods")).unwrap();
        assert_eq!(schema.rule.level, "workload-low");
        for _ in 0..5 {
            let seat = Box::pin(flow.seat(&schema, hash, READ, |_| 1));
            let std::task::Poll::Ready(Ok(seat)) = futures::poll!(seat) else { panic!("its own seat") };
            seats.push(seat);
        }
        // Now nothing is to be borrowed, even if one of the borrowers has ended.
        seats.remove(0);
        assert!(futures::poll!(Box::pin(enter(&flow, "u", 1))).is_pending());
    }

    #[tokio::test(start_paused = true)]
    async fn configuration_changes_under_way() {
        let flow = small(Some(0));
        let seat = enter(&flow, "u", 1).await.unwrap();
        // The level goes, and with it the schema: its requests are caught, the one that runs ends in peace.
        let levels = vec![level("workload-low", 5, 60, None, true)];
        let schemas: Vec<_> = bootstrap::flow_schemas().iter().map(FlowSchema::of).collect();
        flow.configure(levels, schemas.clone());
        let caught =
            flow.classify(&ctx(&UserInfo::authenticated("u", &[]), "GET", "/api/v1/pods")).unwrap().0;
        assert_eq!(caught.rule.name, "catch-all");
        drop(seat);
        assert_eq!(flow.in_flight(), (0, 0));
        let mut headers = HeaderMap::new();
        caught.mark(&mut headers);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn width_of_lists() {
        for (objects, nominal, width) in
            [(0, 49, 1), (100, 49, 1), (101, 49, 2), (5000, 49, 7), (5000, 245, 10)]
        {
            assert_eq!(list_width(objects, nominal), width, "{objects} of {nominal}");
        }
        assert!(limits::SEAT_WAIT_MAX < limits::REQUEST_TIMEOUT);
    }
}
