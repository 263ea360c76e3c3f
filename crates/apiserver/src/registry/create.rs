//! Create.

use isopod_api::Value;
use isopod_api::object::child_mut;
use isopod_api::status::Status;
use rand::Rng as _;

use super::storage::Outcome;
use super::write::{Rollbacks, Write, name_of};
use crate::layers::Operation;
use crate::limits;

/// Characters of generated suffixes: no vowels, and no digits that look like them.
const SUFFIX_ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
const SUFFIX_LEN: usize = 5;
/// Longest prefix kept of `generateName`.
const PREFIX_MAX: usize = 63 - SUFFIX_LEN;

/// A name made of a prefix and a random suffix.
pub fn generate_name(prefix: &str) -> String {
    let mut random = rand::rng();
    let mut end = prefix.len().min(PREFIX_MAX);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let mut name = prefix[..end].to_owned();
    for _ in 0..SUFFIX_LEN {
        name.push(char::from(SUFFIX_ALPHABET[random.random_range(0..SUFFIX_ALPHABET.len())]));
    }
    name
}

impl Write<'_> {
    /// Creates an object (in the storage version, defaulted) and gives it as stored.
    pub async fn create(&self, mut object: Value) -> Result<Value, Status> {
        self.fill_metadata(&mut object)?;
        let prefix = object
            .get("metadata")
            .and_then(|m| m.get("generateName"))
            .and_then(Value::as_str)
            .filter(|_| name_of(&object).is_empty())
            .filter(|p| !p.is_empty())
            .map(str::to_owned);
        let Some(prefix) = prefix else { return self.create_named(object).await };
        for _ in 1..limits::GENERATE_NAME_RETRIES_MAX {
            let mut attempt = object.clone();
            child_mut(&mut attempt, "metadata").insert("name".to_owned(), generate_name(&prefix).into());
            match self.create_named(attempt).await {
                Err(status) if status.reason == "AlreadyExists" => {}
                result => return result,
            }
        }
        let name = generate_name(&prefix);
        child_mut(&mut object, "metadata").insert("name".to_owned(), name.as_str().into());
        let facts = self.resource.facts;
        self.create_named(object).await.map_err(|status| match status.reason {
            "AlreadyExists" => Status::generate_name_conflict(facts.group, facts.plural, &name),
            _ => status,
        })
    }

    async fn create_named(&self, object: Value) -> Result<Value, Status> {
        let mut rollbacks = Rollbacks::default();
        let result = self.create_steps(object, &mut rollbacks).await;
        if result.is_err() || self.options.dry_run {
            rollbacks.undo().await;
        }
        result
    }

    async fn create_steps(&self, mut object: Value, rollbacks: &mut Rollbacks) -> Result<Value, Status> {
        let stored = &self.resource.stored;
        self.admission(Operation::Create, true, &mut object, &Value::Null, rollbacks).await?;
        self.prepare_create(&mut object)?;
        self.admission(Operation::Create, false, &mut object, &Value::Null, rollbacks).await?;
        self.server.before_store(self, &mut object, None, rollbacks).await?;
        self.record_fields(&mut object, None);
        let store = &*self.server.registry().store;
        let name = name_of(&object).to_owned();
        let exists = || Status::already_exists(self.resource.facts.group, self.resource.facts.plural, &name);
        if self.options.dry_run {
            let current = stored.current(store, self.namespace, &name).await?;
            return if current.is_some() { Err(exists()) } else { Ok(object) };
        }
        let lease = self.server.lease_for(stored).await?;
        match stored.put(store, &mut object, 0, lease).await? {
            Outcome::Done(_) => Ok(object),
            Outcome::Conflict(Some(current))
                if current.object["metadata"]["deletionTimestamp"].is_string() =>
            {
                let mut status = exists();
                status.message = format!("object is being deleted: {}", status.message);
                Err(status)
            }
            Outcome::Conflict(_) => Err(exists()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::generate_name;

    #[test]
    fn names_have_a_suffix_and_a_limit() {
        let name = generate_name("web-");
        assert!(name.starts_with("web-") && name.len() == 9, "{name}");
        assert_eq!(generate_name(&"x".repeat(100)).len(), 63);
    }
}
