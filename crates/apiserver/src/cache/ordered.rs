//! An ordered map with cheap snapshots: sorted chunks of reference-counted entries, copied on write.
//!
//! A clone is one reference count. A write copies only the chunk it touches, and only if a snapshot still
//! shares it. Reading in order walks contiguous memory, which is what LIST does all day.

use std::sync::Arc;

/// Entries per chunk before it is split: a copy of one chunk stays around a microsecond.
const CHUNK_MAX: usize = 128;

/// Something with a sort key.
pub trait Keyed {
    /// The key; it never changes.
    fn key(&self) -> &str;
}

/// Ordered, persistent map of `Arc<T>` by `T::key`.
#[derive(Debug)]
pub struct Ordered<T> {
    chunks: Arc<Vec<Arc<Vec<Arc<T>>>>>,
    len: usize,
}

impl<T> Clone for Ordered<T> {
    fn clone(&self) -> Self {
        Ordered { chunks: Arc::clone(&self.chunks), len: self.len }
    }
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Ordered { chunks: Arc::new(Vec::new()), len: 0 }
    }
}

/// A place in an [`Ordered`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    chunk: usize,
    at: usize,
}

impl<T: Keyed> Ordered<T> {
    /// Builds the map from entries that are already sorted and unique.
    pub fn from_sorted(entries: Vec<Arc<T>>) -> Self {
        let len = entries.len();
        let chunks = entries.chunks(CHUNK_MAX / 2 + CHUNK_MAX / 4).map(|c| Arc::new(c.to_vec())).collect();
        Ordered { chunks: Arc::new(chunks), len }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The entry of a key.
    pub fn get(&self, key: &str) -> Option<&Arc<T>> {
        let chunk = self.chunks.get(self.chunk_of(key))?;
        chunk.binary_search_by(|e| e.key().cmp(key)).ok().map(|i| &chunk[i])
    }

    /// Puts an entry, returning the one it replaces.
    pub fn insert(&mut self, entry: Arc<T>) -> Option<Arc<T>> {
        let index = self.chunk_of(entry.key());
        let chunks = Arc::make_mut(&mut self.chunks);
        if chunks.is_empty() {
            chunks.push(Arc::new(vec![entry]));
            self.len = 1;
            return None;
        }
        let chunk = Arc::make_mut(&mut chunks[index]);
        match chunk.binary_search_by(|e| e.key().cmp(entry.key())) {
            Ok(at) => Some(std::mem::replace(&mut chunk[at], entry)),
            Err(at) => {
                chunk.insert(at, entry);
                if chunk.len() > CHUNK_MAX {
                    // Appends (sorted names, growing suffixes) are common: leave the left part full then.
                    let cut = if at + 1 == chunk.len() { CHUNK_MAX } else { CHUNK_MAX / 2 };
                    let right = chunk.split_off(cut);
                    chunks.insert(index + 1, Arc::new(right));
                }
                self.len += 1;
                None
            }
        }
    }

    /// Removes the entry of a key.
    pub fn remove(&mut self, key: &str) -> Option<Arc<T>> {
        let index = self.chunk_of(key);
        let at = self.chunks.get(index)?.binary_search_by(|e| e.key().cmp(key)).ok()?;
        let chunks = Arc::make_mut(&mut self.chunks);
        let chunk = Arc::make_mut(&mut chunks[index]);
        let removed = chunk.remove(at);
        if chunk.is_empty() {
            chunks.remove(index);
        }
        self.len -= 1;
        Some(removed)
    }

    /// The first place whose key is not less than `key`.
    pub fn seek(&self, key: &str) -> Position {
        let chunk = self.chunk_of(key);
        let at = self.chunks.get(chunk).map_or(0, |c| c.partition_point(|e| e.key() < key));
        Position { chunk, at }
    }

    /// The entry at a place, which then moves on by one.
    pub fn next(&self, position: &mut Position) -> Option<&Arc<T>> {
        loop {
            let chunk = self.chunks.get(position.chunk)?;
            if let Some(entry) = chunk.get(position.at) {
                position.at += 1;
                return Some(entry);
            }
            position.chunk += 1;
            position.at = 0;
        }
    }

    /// All entries whose key starts with `prefix`, in order.
    pub fn with_prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a Arc<T>> + 'a {
        let mut position = self.seek(prefix);
        std::iter::from_fn(move || self.next(&mut position).filter(|e| e.key().starts_with(prefix)))
    }

    /// Index of the chunk that holds or would hold a key.
    fn chunk_of(&self, key: &str) -> usize {
        let after = self.chunks.partition_point(|c| c.first().is_some_and(|e| e.key() <= key));
        after.saturating_sub(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[derive(Debug)]
    struct Item(String, u32);
    impl Keyed for Item {
        fn key(&self) -> &str {
            &self.0
        }
    }

    /// Random operations agree with a `BTreeMap`, and a snapshot taken before stays as it was.
    #[test]
    fn agrees_with_a_model() {
        let mut seed = 7u64;
        let mut random = move || {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            (seed >> 33) as u32
        };
        let mut map: Ordered<Item> = Ordered::default();
        let mut model = BTreeMap::new();
        let mut snapshot = None;
        for step in 0..20_000u32 {
            let key = format!("ns{}/n{}", random() % 7, random() % 400);
            if random() % 3 == 0 {
                assert_eq!(map.remove(&key).map(|i| i.1), model.remove(&key));
            } else {
                assert_eq!(
                    map.insert(Arc::new(Item(key.clone(), step))).map(|i| i.1),
                    model.insert(key, step)
                );
            }
            if step == 9_000 {
                snapshot = Some((map.clone(), model.clone()));
            }
        }
        let (old, old_model) = snapshot.unwrap();
        for (map, model) in [(&map, &model), (&old, &old_model)] {
            assert_eq!(map.len(), model.len());
            let got: Vec<_> = map.with_prefix("").map(|i| (i.0.clone(), i.1)).collect();
            let want: Vec<_> = model.iter().map(|(k, v)| (k.clone(), *v)).collect();
            assert_eq!(got, want);
            let got: Vec<_> = map.with_prefix("ns3/").map(|i| i.0.clone()).collect();
            let want: Vec<_> = model.keys().filter(|k| k.starts_with("ns3/")).cloned().collect();
            assert_eq!(got, want);
            for (key, value) in model {
                assert_eq!(map.get(key).unwrap().1, *value);
            }
        }
    }
}
