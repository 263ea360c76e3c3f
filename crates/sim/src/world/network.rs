//! The network between members: loss, delay, reordering, duplication, partitions of both kinds.

use std::collections::BTreeSet;

use super::member::PeerMessage;
use crate::random::Random;

/// One-way delay of a message on a good network, in nanoseconds, least and most.
const DELAY_NS: (u64, u64) = (50_000, 2_000_000);

/// The parts of a message by which a proposal and its refusal are known.
#[derive(Clone, PartialEq, Eq, ::prost::Message)]
struct Peek {
    #[prost(bytes = "bytes", optional, tag = "4")]
    proposal: Option<bytes::Bytes>,
    #[prost(bytes = "bytes", optional, tag = "5")]
    refusal: Option<bytes::Bytes>,
}

/// Whether a message may come twice. Raft's may; a proposal that a member passes on to its leader may not, nor may its
/// refusal: members speak over streams that repeat nothing, and nobody sends them again.
pub(crate) fn may_repeat(message: &PeerMessage) -> bool {
    prost::Message::decode(message.encode())
        .is_ok_and(|peek: Peek| peek.proposal.is_none() && peek.refusal.is_none())
}

/// The network's present quality.
#[derive(Default)]
pub(crate) struct Network {
    /// Pairs (from, to) between which nothing passes.
    blocked: BTreeSet<(u64, u64)>,
    /// Messages of a thousand that get lost.
    pub(crate) loss_permille: u64,
    /// Messages of a thousand that come twice.
    pub(crate) twice_permille: u64,
    /// Messages of a thousand that are held up, and so overtaken by later ones.
    pub(crate) slow_permille: u64,
    /// How long those are held up at most, in nanoseconds.
    pub(crate) slow_ns_max: u64,
}

impl Network {
    pub(crate) fn block(&mut self, from: u64, to: u64) {
        self.blocked.insert((from, to));
    }

    pub(crate) fn passes(&self, from: u64, to: u64) -> bool {
        !self.blocked.contains(&(from, to))
    }

    /// Lets everything pass again; what gets lost or held up stays as it is.
    pub(crate) fn join(&mut self) {
        self.blocked.clear();
    }

    /// A good network.
    pub(crate) fn heal(&mut self) {
        *self = Network::default();
    }

    /// After what delays copies of a message arrive: none, one or two.
    pub(crate) fn delays(&self, from: u64, to: u64, random: &mut Random) -> Vec<u64> {
        if !self.passes(from, to) || random.permille(self.loss_permille) {
            return Vec::new();
        }
        let copies = if random.permille(self.twice_permille) { 2 } else { 1 };
        (0..copies)
            .map(|_| {
                let mut delay = random.between(DELAY_NS.0, DELAY_NS.1);
                if random.permille(self.slow_permille) {
                    delay += random.below(self.slow_ns_max.max(1));
                }
                delay
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_may_be_one_way() {
        let mut network = Network::default();
        let mut random = Random::new(1);
        network.block(1, 2);
        assert!(network.delays(1, 2, &mut random).is_empty());
        assert_eq!(network.delays(2, 1, &mut random).len(), 1);
        network.twice_permille = 1000;
        assert_eq!(network.delays(2, 1, &mut random).len(), 2);
        network.heal();
        assert_eq!(network.delays(1, 2, &mut random).len(), 1);
    }
}
