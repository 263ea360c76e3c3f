//! Tokens that stand for an authenticated user: one member's view, kept beside the replicated state.
//!
//! A token is issued by a command, so that every member knows it, and lives while it is used: each member counts its
//! time by itself, from times given to it. A member that did not see the command (it was restarted, or caught up by
//! a snapshot) does not know the token; clients then authenticate anew, as they do with etcd.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

/// How long a token lives after its last use; etcd's default.
pub const TOKEN_TTL: Duration = Duration::from_secs(300);
/// Tokens known at once. Beyond it the one that was not used for the longest time goes: its client authenticates anew.
const TOKENS_MAX: usize = 100_000;

/// What a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The token, opaque to clients.
    pub token: String,
    /// The user.
    pub user: String,
    /// Which user of that name: [`crate::Auth::session_user`] takes no older one.
    pub since: u64,
}

/// The tokens that a member knows.
#[derive(Debug)]
pub struct Tokens {
    ttl: Duration,
    sessions: HashMap<String, (Session, Duration)>,
    deadlines: BTreeSet<(Duration, String)>,
}

impl Default for Tokens {
    fn default() -> Tokens {
        Tokens::new(TOKEN_TTL)
    }
}

impl Tokens {
    /// Tokens with a time to live.
    pub fn new(ttl: Duration) -> Tokens {
        Tokens { ttl, sessions: HashMap::new(), deadlines: BTreeSet::new() }
    }

    /// Adds a token that was issued.
    pub fn insert(&mut self, session: Session, now: Duration) {
        self.expire(now);
        if self.sessions.len() >= TOKENS_MAX
            && let Some((_, token)) = self.deadlines.pop_first()
        {
            self.sessions.remove(&token);
        }
        let deadline = now + self.ttl;
        self.deadlines.insert((deadline, session.token.clone()));
        if let Some((_, old)) = self.sessions.insert(session.token.clone(), (session.clone(), deadline)) {
            self.deadlines.remove(&(old, session.token));
        }
    }

    /// What a token stands for; its time begins anew.
    pub fn renew(&mut self, token: &str, now: Duration) -> Option<&Session> {
        self.expire(now);
        let (session, deadline) = self.sessions.get_mut(token)?;
        if now + self.ttl > *deadline {
            self.deadlines.remove(&(*deadline, session.token.clone()));
            *deadline = now + self.ttl;
            self.deadlines.insert((*deadline, session.token.clone()));
        }
        Some(session)
    }

    fn expire(&mut self, now: Duration) {
        while self.deadlines.first().is_some_and(|(deadline, _)| *deadline <= now) {
            let (_, token) = self.deadlines.pop_first().expect("there is a first one");
            self.sessions.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn session(token: &str) -> Session {
        Session { token: token.to_owned(), user: "u".to_owned(), since: 1 }
    }

    #[test]
    fn a_token_lives_while_it_is_used() {
        let mut tokens = Tokens::new(s(300));
        tokens.insert(session("a"), s(0));
        tokens.insert(session("b"), s(0));
        assert_eq!(tokens.renew("a", s(200)), Some(&session("a")));
        assert_eq!(tokens.renew("b", s(300)), None);
        assert_eq!(tokens.renew("a", s(499)), Some(&session("a")));
        assert_eq!(tokens.renew("a", s(799)), None);
        assert!(tokens.sessions.is_empty() && tokens.deadlines.is_empty());
    }

    #[test]
    fn the_number_of_tokens_is_bounded() {
        let mut tokens = Tokens::new(s(300));
        for number in 0..TOKENS_MAX + 10 {
            tokens.insert(session(&number.to_string()), s(0) + Duration::from_micros(number as u64));
        }
        assert_eq!((tokens.sessions.len(), tokens.deadlines.len()), (TOKENS_MAX, TOKENS_MAX));
        assert_eq!(tokens.renew("9", s(1)), None);
        assert!(tokens.renew("10", s(1)).is_some());
    }
}
