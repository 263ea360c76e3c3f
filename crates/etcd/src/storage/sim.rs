//! A directory in memory that can crash.
//!
//! What a crash leaves of unsynced work is chosen at random, sector by sector: each is as it was at the last sync, or
//! as it was at any moment since. Creations, renames and removals since the last directory sync survive in order up
//! to some point. A run depends on nothing but the seed.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::{File, Storage};

/// The unit in which a disk writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// An error that the storage is to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Writes fail as on a full disk, after having taken this many bytes.
    Full {
        /// Bytes that still fit.
        left: usize,
    },
    /// The next sync fails.
    SyncFails,
    /// Syncs of files succeed and do nothing, until a crash takes back all that was written since: a disk whose cache
    /// forgets, or a program that does not sync.
    SyncLies,
    /// The machine dies after this many further operations that change something; every later one fails.
    Dies {
        /// Operations that still succeed.
        after: usize,
    },
}

/// The directory. Clones share it.
#[derive(Clone, Default)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    /// Names as the running system sees them.
    names: BTreeMap<String, usize>,
    /// Names as they were at the last directory sync, and what was done since, in order.
    durable_names: BTreeMap<String, usize>,
    unsynced_names: Vec<NameChange>,
    files: Vec<Content>,
    fault: Option<Fault>,
    random: Random,
    /// Counts crashes: handles from before one are dead.
    epoch: u64,
}

#[derive(Clone)]
enum NameChange {
    Create(String, usize),
    Rename(String, String),
    Remove(String),
}

/// A file: as it is seen, and all it might be after a crash.
#[derive(Clone, Default)]
struct Content {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// States since the last sync that a crash may bring back, by sector.
    unsynced: BTreeMap<usize, Vec<Vec<u8>>>,
    /// Lengths since the last sync.
    lengths: Vec<usize>,
}

/// A small generator (splitmix64): the sequence of a seed never changes.
#[derive(Default)]
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % below as u64) as usize
    }
}

impl SimStorage {
    /// An empty directory.
    pub fn new(seed: u64) -> SimStorage {
        let storage = SimStorage::default();
        storage.disk.lock().random = Random(seed);
        storage
    }

    /// Injects a fault, or clears it.
    pub fn set_fault(&self, fault: Option<Fault>) {
        self.disk.lock().fault = fault;
    }

    /// Loses power: what was not synced survives in part. Open files become useless.
    pub fn crash(&self) {
        let mut guard = self.disk.lock();
        let disk = &mut *guard;
        disk.epoch += 1;
        let lied = disk.fault.take() == Some(Fault::SyncLies);
        let survive = disk.random.next(disk.unsynced_names.len() + 1);
        let changes: Vec<_> = disk.unsynced_names.drain(..).take(survive).collect();
        for change in changes {
            change.apply(&mut disk.durable_names);
        }
        disk.names = disk.durable_names.clone();
        let random = &mut disk.random;
        for content in &mut disk.files {
            if lied {
                content.now = content.durable.clone();
                content.sync();
            } else {
                content.crash(random);
            }
        }
    }

    /// Inverts one random bit of a file's first `length` bytes; where.
    pub fn flip_bit(&self, name: &str, length: usize) -> Option<usize> {
        let mut guard = self.disk.lock();
        let disk = &mut *guard;
        let content = &mut disk.files[*disk.names.get(name)?];
        let at = disk.random.next(length.min(content.now.len()));
        let bit = 1 << disk.random.next(8);
        content.now[at] ^= bit;
        content.durable = content.now.clone();
        Some(at)
    }

    /// The content of a file as the running system sees it.
    pub fn content(&self, name: &str) -> Option<Vec<u8>> {
        let disk = self.disk.lock();
        disk.names.get(name).map(|file| disk.files[*file].now.clone())
    }

    /// A number below `below` from the storage's own sequence.
    pub fn random(&self, below: usize) -> usize {
        self.disk.lock().random.next(below)
    }
}

impl NameChange {
    fn apply(self, names: &mut BTreeMap<String, usize>) {
        match self {
            NameChange::Create(name, file) => {
                names.insert(name, file);
            }
            NameChange::Rename(from, to) => {
                if let Some(file) = names.remove(&from) {
                    names.insert(to, file);
                }
            }
            NameChange::Remove(name) => {
                names.remove(&name);
            }
        }
    }
}

impl Disk {
    fn change(&mut self, change: NameChange) {
        change.clone().apply(&mut self.names);
        self.unsynced_names.push(change);
    }

    /// Counts an operation that changes something; fails once the machine is dead.
    fn operate(&mut self) -> io::Result<()> {
        match &mut self.fault {
            Some(Fault::Dies { after: 0 }) => Err(io::Error::other("the machine is dead")),
            Some(Fault::Dies { after }) => {
                *after -= 1;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn find(&self, name: &str) -> io::Result<usize> {
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Content {
    fn remember(&mut self, start: usize, end: usize) {
        for sector in start / SECTOR..end.div_ceil(SECTOR) {
            let from = (sector * SECTOR).min(self.now.len());
            let to = ((sector + 1) * SECTOR).min(self.now.len());
            self.unsynced.entry(sector).or_default().push(self.now[from..to].to_vec());
        }
        self.lengths.push(self.now.len());
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        let end = offset + data.len();
        if self.now.len() < end {
            self.now.resize(end, 0);
        }
        self.now[offset..end].copy_from_slice(data);
        self.remember(offset, end);
    }

    fn resize(&mut self, length: usize) {
        self.now.resize(length, 0);
        self.lengths.push(length);
        // What lies beyond a cut does not come back with a later growth.
        for (sector, states) in &mut self.unsynced {
            for state in states {
                state.truncate(length.saturating_sub(sector * SECTOR));
            }
        }
    }

    fn sync(&mut self) {
        self.durable = self.now.clone();
        self.unsynced.clear();
        self.lengths.clear();
    }

    fn crash(&mut self, random: &mut Random) {
        let mut content = std::mem::take(&mut self.durable);
        if let Some(length) = pick(random, &self.lengths) {
            content.resize(*length, 0);
        }
        for (sector, states) in std::mem::take(&mut self.unsynced) {
            let Some(state) = pick(random, &states) else { continue };
            let from = (sector * SECTOR).min(content.len());
            let to = (from + state.len()).min(content.len());
            content[from..to].copy_from_slice(&state[..to - from]);
        }
        self.now = content;
        self.sync();
    }
}

/// One of the states, or none of them.
fn pick<'a, T>(random: &mut Random, states: &'a [T]) -> Option<&'a T> {
    match random.next(states.len() + 1) {
        0 => None,
        state => Some(&states[state - 1]),
    }
}

impl Storage for SimStorage {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.disk.lock().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Box<dyn File>> {
        let mut disk = self.disk.lock();
        disk.operate()?;
        if matches!(disk.fault, Some(Fault::Full { .. })) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        disk.files.push(Content::default());
        let file = disk.files.len() - 1;
        disk.change(NameChange::Create(name.to_owned(), file));
        Ok(Box::new(SimFile { disk: self.disk.clone(), file, epoch: disk.epoch }))
    }

    fn open(&self, name: &str) -> io::Result<Box<dyn File>> {
        let disk = self.disk.lock();
        Ok(Box::new(SimFile { disk: self.disk.clone(), file: disk.find(name)?, epoch: disk.epoch }))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.operate()?;
        disk.find(from)?;
        disk.change(NameChange::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.operate()?;
        disk.find(name)?;
        disk.change(NameChange::Remove(name.to_owned()));
        Ok(())
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = self.disk.lock();
        disk.operate()?;
        disk.durable_names = disk.names.clone();
        disk.unsynced_names.clear();
        Ok(())
    }

    fn path(&self, name: &str) -> String {
        format!("sim/{name}")
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    file: usize,
    epoch: u64,
}

impl SimFile {
    fn with<T>(&self, action: impl FnOnce(&mut Disk, usize) -> io::Result<T>) -> io::Result<T> {
        let mut disk = self.disk.lock();
        if disk.epoch != self.epoch {
            return Err(io::Error::other("the machine has crashed since"));
        }
        action(&mut disk, self.file)
    }
}

impl File for SimFile {
    fn size(&self) -> io::Result<u64> {
        self.with(|disk, file| Ok(disk.files[file].now.len() as u64))
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.with(|disk, file| {
            let content = &disk.files[file].now;
            let from = (offset as usize).min(content.len());
            let count = buffer.len().min(content.len() - from);
            buffer[..count].copy_from_slice(&content[from..from + count]);
            Ok(count)
        })
    }

    fn write_at(&mut self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.with(|disk, file| {
            let alive = disk.operate();
            let taken = match &mut disk.fault {
                Some(Fault::Full { left }) => {
                    let taken = data.len().min(*left);
                    *left -= taken;
                    taken
                }
                // Death comes in the middle of a write.
                Some(Fault::Dies { after: 0 }) if alive.is_err() => disk.random.next(data.len() + 1),
                _ => data.len(),
            };
            disk.files[file].write(offset as usize, &data[..taken]);
            alive?;
            if taken < data.len() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        })
    }

    fn allocate(&mut self, length: u64) -> io::Result<()> {
        self.with(|disk, file| {
            disk.operate()?;
            if matches!(disk.fault, Some(Fault::Full { .. })) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let content = &mut disk.files[file];
            content.resize(content.now.len().max(length as usize));
            Ok(())
        })
    }

    fn truncate(&mut self, length: u64) -> io::Result<()> {
        self.with(|disk, file| {
            disk.operate()?;
            disk.files[file].resize(length as usize);
            Ok(())
        })
    }

    fn sync(&mut self) -> io::Result<()> {
        self.with(|disk, file| {
            disk.operate()?;
            if disk.fault == Some(Fault::SyncFails) {
                disk.fault = None;
                return Err(io::Error::other("input/output error"));
            }
            if disk.fault != Some(Fault::SyncLies) {
                disk.files[file].sync();
            }
            Ok(())
        })
    }
}
