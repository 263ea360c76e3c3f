//! One-time tokens: who has one may start the session it stands for, once, within a minute.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::Session;

/// How long a token works, as in upstream.
const LIFETIME: Duration = Duration::from_secs(60);
/// Tokens that may be unused at a time, as in upstream; more means that a client leaks them.
const TOKENS_MAX: usize = 1000;

/// The tokens that are out.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    out: HashMap<String, (Session, Instant)>,
}

impl Tokens {
    /// Makes a token for a session; none if too many are out.
    pub(crate) fn insert(&mut self, session: Session, now: Instant) -> Option<String> {
        self.out.retain(|_, (_, made)| now.duration_since(*made) < LIFETIME);
        if self.out.len() >= TOKENS_MAX {
            return None;
        }
        let token = uuid::Uuid::new_v4().simple().to_string();
        self.out.insert(token.clone(), (session, now));
        Some(token)
    }

    /// Takes the session of a token.
    pub(crate) fn take(&mut self, token: &str, now: Instant) -> Option<Session> {
        let (session, made) = self.out.remove(token)?;
        (now.duration_since(made) < LIFETIME).then_some(session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session() -> Session {
        Session::PortForward { sandbox: "s".into(), ports: vec![] }
    }

    #[test]
    fn once_and_not_late() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        let token = tokens.insert(session(), now).unwrap();
        assert_eq!(tokens.take(&token, now), Some(session()));
        assert_eq!(tokens.take(&token, now), None);
        let token = tokens.insert(session(), now).unwrap();
        assert_eq!(tokens.take(&token, now + LIFETIME), None);
    }

    #[test]
    fn bounded() {
        let mut tokens = Tokens::default();
        let now = Instant::now();
        for _ in 0..TOKENS_MAX {
            tokens.insert(session(), now).unwrap();
        }
        assert_eq!(tokens.insert(session(), now), None);
        assert!(tokens.insert(session(), now + LIFETIME).is_some());
    }
}
