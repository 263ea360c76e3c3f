//! The file of etcd's backend, bbolt: read whole, and written whole in one go.
//!
//! A file is pages of one size. The first two say where the root is; of those that are intact the newer holds. Buckets
//! are B+trees of pages: branches lead to leaves, leaves hold keys and values in order, and a value may itself be a
//! bucket. Nothing here changes a file in place: a store of ours only takes such files in, and hands them out.
//!
//! Files come from elsewhere: every length and position is checked against the file, every page is visited once, and
//! keys must ascend.

mod read;
mod write;

pub(crate) use read::{Bucket, Database};
pub(crate) use write::{Entries, Layout};

const MAGIC: u32 = 0xED0C_DAED;
const VERSION: u32 = 2;

/// Bytes before the content of a page: number, kind, count, overflow.
const PAGE_HEADER: usize = 16;
/// Bytes of an element's description, in branches and in leaves.
const ELEMENT: usize = 16;
/// Bytes of a bucket in its parent: root and sequence. A small bucket's page follows at once.
const BUCKET_HEADER: usize = 16;
/// Bytes of the two first pages' content that the checksum covers.
const META_CHECKED: usize = 56;

/// Kinds of pages.
mod kind {
    pub(super) const BRANCH: u16 = 0x01;
    pub(super) const LEAF: u16 = 0x02;
    pub(super) const META: u16 = 0x04;
    pub(super) const FREELIST: u16 = 0x10;
}

/// Mark of a leaf's element that is a bucket.
const IS_BUCKET: u32 = 0x01;

/// Why a file cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BboltError {
    /// Neither of the two first pages is intact.
    #[error("not a bbolt file, or both of its first pages are damaged")]
    NoMeta,
    /// A page does not say what it should.
    #[error("page {page} is damaged: {reason}")]
    Damaged { page: u64, reason: &'static str },
}

/// The checksum of the first pages: FNV-1a.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Content = Vec<(Vec<u8>, Vec<u8>)>;

    struct List(Content);

    impl Entries for List {
        fn len(&self) -> usize {
            self.0.len()
        }

        fn sizes(&self, index: usize) -> (usize, usize) {
            (self.0[index].0.len(), self.0[index].1.len())
        }

        fn key(&self, index: usize, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0[index].0);
        }

        fn value(&self, index: usize, out: &mut Vec<u8>) {
            out.extend_from_slice(&self.0[index].1);
        }
    }

    fn write(buckets: &[(&'static str, Content)]) -> Vec<u8> {
        let buckets = buckets.iter().map(|(name, content)| (*name, List(content.clone())));
        let layout = Layout::new(buckets.collect());
        let mut file = Vec::new();
        layout.write(&mut |piece| {
            file.extend_from_slice(&piece);
            true
        });
        assert_eq!(file.len() as u64, layout.bytes());
        file
    }

    fn read(file: &[u8], bucket: &[u8]) -> Result<Option<Content>, BboltError> {
        let database = Database::open(file)?;
        let Some(bucket) = database.bucket(bucket)? else { return Ok(None) };
        let mut content = Vec::new();
        bucket.each(&mut |key, value| content.push((key.to_vec(), value.to_vec())))?;
        Ok(Some(content))
    }

    #[test]
    fn what_is_written_is_read() {
        let many: Content = (0..20_000u32)
            .map(|number| (number.to_be_bytes().to_vec(), vec![number as u8; (number % 50) as usize]))
            .collect();
        let large = vec![
            (b"a".to_vec(), vec![1; 10_000]),
            (b"b".to_vec(), vec![2; 4096]),
            (b"c".to_vec(), vec![3; 4096 - 33]),
            (b"d".to_vec(), Vec::new()),
        ];
        let buckets = [("empty", Vec::new()), ("large", large), ("many", many)];
        let file = write(&buckets);
        for (name, content) in &buckets {
            assert_eq!(read(&file, name.as_bytes()).unwrap().as_ref(), Some(content));
        }
        assert_eq!(read(&file, b"none"), Ok(None));
        let database = Database::open(&file).unwrap();
        assert_eq!(database.names().unwrap(), [b"empty".to_vec(), b"large".to_vec(), b"many".to_vec()]);
        assert_eq!(database.bytes(), file.len() as u64);
    }

    #[test]
    fn one_of_the_first_pages_is_enough() {
        let mut file = write(&[("a", vec![(b"k".to_vec(), b"v".to_vec())])]);
        file[20] ^= 1;
        assert_eq!(read(&file, b"a").unwrap().unwrap().len(), 1);
        file[4096 + 20] ^= 1;
        assert_eq!(read(&file, b"a"), Err(BboltError::NoMeta));
        assert_eq!(read(&[], b"a"), Err(BboltError::NoMeta));
    }

    #[test]
    fn a_cycle_ends() {
        let many: Content = (0..2000u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; 40])).collect();
        let mut file = write(&[("a", many)]);
        // The branch's second child becomes the branch itself.
        let branch = file
            .chunks(4096)
            .position(|page| u16::from_le_bytes([page[8], page[9]]) == kind::BRANCH)
            .unwrap();
        let child = branch * 4096 + PAGE_HEADER + ELEMENT + 8;
        file[child..child + 8].copy_from_slice(&(branch as u64).to_le_bytes());
        assert!(matches!(read(&file, b"a"), Err(BboltError::Damaged { .. })));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]

        /// Whatever bytes change, reading ends, and ends without a panic.
        #[test]
        fn damage_is_survived(
            changes in prop::collection::vec((0usize..30_000, any::<u8>()), 1..20),
            cut in 0usize..30_000,
        ) {
            let many: Content =
                (0..400u32).map(|number| (number.to_be_bytes().to_vec(), vec![7; 40])).collect();
            let mut file = write(&[("empty", Vec::new()), ("key", many)]);
            for (position, byte) in changes {
                let position = position % file.len();
                file[position] = byte;
            }
            file.truncate(file.len().min(cut.max(8192)));
            let _ = read(&file, b"key");
            let _ = read(&file, b"empty");
        }
    }
}
