//! Reading.

use super::{
    BUCKET_HEADER, BboltError, ELEMENT, IS_BUCKET, MAGIC, META_CHECKED, PAGE_HEADER, VERSION, checksum, kind,
};

/// Sizes of pages that a file may have; bbolt takes that of the machine's memory.
const PAGE_SIZES: std::ops::RangeInclusive<u32> = 10..=16;
/// How deep a tree of pages may be: with two children a branch, more than any file has pages.
const DEPTH_MAX: usize = 64;

/// A file in memory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Database<'a> {
    bytes: &'a [u8],
    page_size: usize,
    root: u64,
    /// The first page that the file does not have.
    end: u64,
}

/// A bucket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bucket<'a> {
    database: Database<'a>,
    root: Root<'a>,
}

#[derive(Clone, Copy, Debug)]
enum Root<'a> {
    Page(u64),
    /// A bucket so small that its only page is in its parent.
    Inline(&'a [u8]),
}

/// A page, checked to lie within the file.
#[derive(Clone, Copy)]
struct Page<'a> {
    id: u64,
    kind: u16,
    count: usize,
    bytes: &'a [u8],
}

/// The content of one of the first two pages.
struct Meta {
    page_size: usize,
    root: u64,
    end: u64,
    transaction: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The first pages' content, if it is intact.
fn meta(bytes: &[u8], offset: usize) -> Option<Meta> {
    let content = bytes.get(offset + PAGE_HEADER..offset + PAGE_HEADER + META_CHECKED + 8)?;
    let intact = u32_at(content, 0)? == MAGIC
        && u32_at(content, 4)? == VERSION
        && u64_at(content, META_CHECKED)? == checksum(&content[..META_CHECKED]);
    let page_size = u32_at(content, 8)?;
    if !intact || !page_size.is_power_of_two() || !PAGE_SIZES.contains(&page_size.ilog2()) {
        return None;
    }
    Some(Meta {
        page_size: page_size as usize,
        root: u64_at(content, 16)?,
        end: u64_at(content, 40)?,
        transaction: u64_at(content, 48)?,
    })
}

impl<'a> Database<'a> {
    /// Opens a file.
    ///
    /// # Errors
    /// [`BboltError::NoMeta`].
    pub(crate) fn open(bytes: &'a [u8]) -> Result<Database<'a>, BboltError> {
        // The second of the first pages lies where the page size says, which only an intact first one tells.
        let first = meta(bytes, 0);
        let sizes = PAGE_SIZES.map(|bits| 1usize << bits);
        let second = sizes.filter_map(|size| meta(bytes, size).filter(|meta| meta.page_size == size));
        let newest = first.into_iter().chain(second).max_by_key(|meta| meta.transaction);
        let Meta { page_size, root, end, .. } = newest.ok_or(BboltError::NoMeta)?;
        Ok(Database { bytes, page_size, root, end })
    }

    /// Bytes of the pages in use or free for use, as bbolt counts the size.
    pub(crate) fn bytes(&self) -> u64 {
        self.end.saturating_mul(self.page_size as u64)
    }

    /// Names of all buckets.
    ///
    /// # Errors
    /// [`BboltError::Damaged`].
    pub(crate) fn names(&self) -> Result<Vec<Vec<u8>>, BboltError> {
        let mut names = Vec::new();
        self.root().walk(&mut |key, _, flags| {
            if flags & IS_BUCKET != 0 {
                names.push(key.to_vec());
            }
            Ok(())
        })?;
        Ok(names)
    }

    /// The bucket of a name.
    ///
    /// # Errors
    /// [`BboltError::Damaged`].
    pub(crate) fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'a>>, BboltError> {
        let mut found = None;
        self.root().walk(&mut |key, value, flags| {
            if key == name && flags & IS_BUCKET != 0 {
                found = Some(value);
            }
            Ok(())
        })?;
        let Some(value) = found else { return Ok(None) };
        let root = match u64_at(value, 0) {
            Some(0) if value.len() >= BUCKET_HEADER => Root::Inline(&value[BUCKET_HEADER..]),
            Some(root) if root != 0 => Root::Page(root),
            _ => return Err(BboltError::Damaged { page: self.root, reason: "a bucket is too short" }),
        };
        Ok(Some(Bucket { database: *self, root }))
    }

    fn root(&self) -> Bucket<'a> {
        Bucket { database: *self, root: Root::Page(self.root) }
    }

    fn page(&self, id: u64) -> Result<Page<'a>, BboltError> {
        let outside = BboltError::Damaged { page: id, reason: "it lies outside of the file" };
        let start = usize::try_from(id).ok().and_then(|id| id.checked_mul(self.page_size));
        let rest =
            start.filter(|_| id < self.end).and_then(|start| self.bytes.get(start..)).ok_or(outside)?;
        let page = Page::new(id, rest)?;
        if u64_at(rest, 0) != Some(id) {
            return Err(page.damaged("it has another number"));
        }
        let overflow = u32_at(rest, 12).unwrap_or(0) as usize;
        let length = (overflow + 1).checked_mul(self.page_size).filter(|length| *length <= rest.len());
        let length = length.ok_or(page.damaged("it is cut off"))?;
        Ok(Page { bytes: &rest[..length], ..page })
    }
}

impl<'a> Page<'a> {
    fn new(id: u64, bytes: &'a [u8]) -> Result<Page<'a>, BboltError> {
        match (u16_at(bytes, 8), u16_at(bytes, 10), bytes.len() >= PAGE_HEADER) {
            (Some(kind), Some(count), true) => Ok(Page { id, kind, count: usize::from(count), bytes }),
            _ => Err(BboltError::Damaged { page: id, reason: "it is cut off" }),
        }
    }

    fn damaged(&self, reason: &'static str) -> BboltError {
        BboltError::Damaged { page: self.id, reason }
    }

    /// A leaf's element: key, value and marks.
    fn leaf(&self, index: usize) -> Option<(&'a [u8], &'a [u8], u32)> {
        let at = PAGE_HEADER + index * ELEMENT;
        let start = at.checked_add(u32_at(self.bytes, at + 4)? as usize)?;
        let value = start.checked_add(u32_at(self.bytes, at + 8)? as usize)?;
        let end = value.checked_add(u32_at(self.bytes, at + 12)? as usize)?;
        Some((self.bytes.get(start..value)?, self.bytes.get(value..end)?, u32_at(self.bytes, at)?))
    }

    /// A branch's element: the page it leads to.
    fn child(&self, index: usize) -> Option<u64> {
        u64_at(self.bytes, PAGE_HEADER + index * ELEMENT + 8)
    }
}

impl<'a> Bucket<'a> {
    /// Visits all keys in order, but not those of buckets within.
    ///
    /// # Errors
    /// [`BboltError::Damaged`].
    pub(crate) fn each(&self, visit: &mut dyn FnMut(&'a [u8], &'a [u8])) -> Result<(), BboltError> {
        self.walk(&mut |key, value, flags| {
            if flags & IS_BUCKET == 0 {
                visit(key, value);
            }
            Ok(())
        })
    }

    fn walk(
        &self,
        visit: &mut dyn FnMut(&'a [u8], &'a [u8], u32) -> Result<(), BboltError>,
    ) -> Result<(), BboltError> {
        let first = match self.root {
            Root::Page(id) => self.database.page(id)?,
            Root::Inline(bytes) => Page::new(0, bytes)?,
        };
        // Each page has one parent: whoever comes by more pages than there are goes in a circle.
        let mut left = self.database.end;
        let mut last: Option<&[u8]> = None;
        let mut path = vec![(first, 0)];
        while let Some((page, index)) = path.last_mut() {
            let page = *page;
            if *index == page.count {
                path.pop();
                continue;
            }
            let position = *index;
            *index += 1;
            match page.kind {
                kind::LEAF => {
                    let beyond = page.damaged("an element lies outside of it");
                    let (key, value, flags) = page.leaf(position).ok_or(beyond)?;
                    if last.is_some_and(|last| last >= key) {
                        return Err(page.damaged("its keys do not ascend"));
                    }
                    last = Some(key);
                    visit(key, value, flags)?;
                }
                kind::BRANCH => {
                    let child = page.child(position).ok_or(page.damaged("an element lies outside of it"))?;
                    left = left.checked_sub(1).ok_or(page.damaged("it is part of a circle"))?;
                    if path.len() >= DEPTH_MAX {
                        return Err(page.damaged("it lies too deep"));
                    }
                    path.push((self.database.page(child)?, 0));
                }
                _ => return Err(page.damaged("it is neither a branch nor a leaf")),
            }
        }
        Ok(())
    }
}
