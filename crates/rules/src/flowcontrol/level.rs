//! Priority levels: how many seats each has, keeps, lends and may borrow.

use isopod_api::Value;

/// A PriorityLevelConfiguration, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriorityLevel {
    /// Name of the object.
    pub name: String,
    /// Uid of the object; empty before it is stored.
    pub uid: String,
    /// How its requests are treated.
    pub kind: Kind,
}

/// How the requests of a level are treated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// They run at once.
    Exempt,
    /// They take seats.
    Limited {
        /// Share of the server's seats.
        shares: u32,
        /// Percentage of its seats that others may use.
        lendable_percent: u32,
        /// Percentage of its seats that it may use beyond them; `None`: what there is.
        borrowing_limit_percent: Option<u32>,
        /// How requests wait; `None`: they are refused at once.
        queuing: Option<Queuing>,
    },
}

/// How requests wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queuing {
    /// Queues.
    pub queues: usize,
    /// Queues that one flow may wait in.
    pub hand_size: usize,
    /// Requests that may wait in one queue.
    pub queue_length_limit: usize,
}

/// Most queues that are made, whatever an object says: each takes memory. Validation allows more, nobody needs it.
const QUEUES_MAX: usize = 4096;

/// The seats of one level.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seats {
    /// Its own.
    pub nominal: u32,
    /// Those of its own that it does not lend.
    pub reserved: u32,
    /// With those that it may borrow.
    pub upper: u32,
}

impl PriorityLevel {
    /// Reads a stored object; upstream's defaults take the place of what is missing.
    pub fn of(object: &Value) -> PriorityLevel {
        let text = |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
        let limited = &object["spec"]["limited"];
        let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
        let queuing = |value: &Value| {
            let size = |key: &str, default: usize| {
                value[key].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(default).max(1)
            };
            let queues = size("queues", 64).min(QUEUES_MAX);
            Queuing {
                queues,
                hand_size: size("handSize", 8).min(queues),
                queue_length_limit: size("queueLengthLimit", 50),
            }
        };
        let kind = match text("/spec/type") {
            "Exempt" => Kind::Exempt,
            _ => Kind::Limited {
                shares: number(&limited["nominalConcurrencyShares"]).unwrap_or(30),
                lendable_percent: number(&limited["lendablePercent"]).unwrap_or(0).min(100),
                borrowing_limit_percent: number(&limited["borrowingLimitPercent"]),
                queuing: (limited["limitResponse"]["type"] == "Queue")
                    .then(|| queuing(&limited["limitResponse"]["queuing"])),
            },
        };
        PriorityLevel { name: text("/metadata/name").to_owned(), uid: text("/metadata/uid").to_owned(), kind }
    }
}

/// The seats of each level, of `total` that the server has. A level with a share has a seat.
pub fn seats(levels: &[PriorityLevel], total: u32) -> Vec<Seats> {
    let shares = |level: &PriorityLevel| match level.kind {
        Kind::Exempt => 0,
        Kind::Limited { shares, .. } => u64::from(shares),
    };
    let sum: u64 = levels.iter().map(shares).sum::<u64>().max(1);
    let of = |level: &PriorityLevel| {
        let Kind::Limited { lendable_percent, borrowing_limit_percent, .. } = level.kind else {
            return Seats::default();
        };
        let nominal = u32::try_from((u64::from(total) * shares(level)).div_ceil(sum)).unwrap_or(u32::MAX);
        let percent = |p: u32| {
            let exact = (u64::from(nominal) * u64::from(p) + 50) / 100;
            u32::try_from(exact).unwrap_or(u32::MAX)
        };
        let upper =
            borrowing_limit_percent.map_or(nominal.max(total), |p| nominal.saturating_add(percent(p)));
        Seats { nominal, reserved: nominal - percent(lendable_percent).min(nominal), upper }
    };
    levels.iter().map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flowcontrol::bootstrap;
    use serde_json::json;

    #[test]
    fn seats_by_share() {
        let levels: Vec<_> = bootstrap::priority_levels().iter().map(PriorityLevel::of).collect();
        let shown: Vec<String> = levels
            .iter()
            .zip(seats(&levels, 600))
            .map(|(l, s)| format!("{} {} {} {}", l.name, s.nominal, s.reserved, s.upper))
            .collect();
        // Of 245 shares.
        assert_eq!(
            shown,
            [
                "exempt 0 0 0",
                "catch-all 13 13 600",
                "system 74 50 600",
                "node-high 98 73 600",
                "leader-election 25 25 600",
                "workload-high 98 49 600",
                "workload-low 245 24 600",
                "global-default 49 24 600"
            ]
        );
        let strict = PriorityLevel::of(&json!({"metadata": {"name": "a"}, "spec": {"type": "Limited",
            "limited": {"nominalConcurrencyShares": 1, "borrowingLimitPercent": 50, "lendablePercent": 100,
            "limitResponse": {"type": "Queue"}}}}));
        assert_eq!(seats(std::slice::from_ref(&strict), 10), [Seats { nominal: 10, reserved: 0, upper: 15 }]);
        let Kind::Limited { queuing: Some(queuing), .. } = strict.kind else { panic!("{strict:?}") };
        assert_eq!(queuing, Queuing { queues: 64, hand_size: 8, queue_length_limit: 50 });
    }
}
