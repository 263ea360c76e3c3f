//! Writing: the layout first, from sizes alone, then the pages in order. Nothing is held but the positions.

use super::{BUCKET_HEADER, ELEMENT, IS_BUCKET, MAGIC, META_CHECKED, PAGE_HEADER, VERSION, checksum, kind};

/// Size of a page, in bytes. Readers take whatever the file says.
const PAGE: usize = 4096;
/// Elements of a page at most; bbolt keeps the largest number for itself.
const COUNT_MAX: usize = 0xFFF0;
/// Pages before the first bucket: the two that say where everything is, and the list of free ones.
const FIRST_PAGE: u64 = 3;
/// Size at which a piece is handed out, in bytes.
const PIECE_BYTES: usize = 1 << 20;

/// What a bucket holds, by position in order of keys.
pub(crate) trait Entries {
    fn len(&self) -> usize;
    /// Bytes of a key and its value.
    fn sizes(&self, index: usize) -> (usize, usize);
    /// Appends a key.
    fn key(&self, index: usize, out: &mut Vec<u8>);
    /// Appends a value.
    fn value(&self, index: usize, out: &mut Vec<u8>);
}

/// Where everything of a file lies.
pub(crate) struct Layout<E> {
    buckets: Vec<(&'static str, E, Tree)>,
    root: u64,
}

/// The pages of a bucket: leaves first, then each level of branches, the root last.
struct Tree {
    levels: Vec<Vec<Node>>,
}

/// A page: its number, how many more it covers, and which entries (of a leaf) or pages below (of a branch) it holds.
#[derive(Clone, Copy)]
struct Node {
    page: u64,
    overflow: u32,
    start: usize,
    end: usize,
    /// The entry with its smallest key.
    first: usize,
}

impl Tree {
    fn new<E: Entries>(entries: &E, next: &mut u64) -> Tree {
        let leaf_size = |index: usize| {
            let (key, value) = entries.sizes(index);
            ELEMENT + key + value
        };
        let mut levels = vec![pack(entries.len(), leaf_size, |index| index, next)];
        while levels[levels.len() - 1].len() > 1 {
            let below = &levels[levels.len() - 1];
            let size = |child: usize| ELEMENT + entries.sizes(below[child].first).0;
            let level = pack(below.len(), size, |child| below[child].first, next);
            levels.push(level);
        }
        Tree { levels }
    }

    fn root(&self) -> u64 {
        self.levels.last().and_then(|level| level.last()).expect("a tree has a page").page
    }
}

/// Fills pages with `count` elements in order; there is always a page.
fn pack(
    count: usize,
    size: impl Fn(usize) -> usize,
    first: impl Fn(usize) -> usize,
    next: &mut u64,
) -> Vec<Node> {
    let mut nodes = Vec::new();
    let mut start = 0;
    loop {
        let (mut end, mut bytes) = (start, PAGE_HEADER);
        while end < count && end - start < COUNT_MAX {
            let more = size(end);
            if end > start && bytes + more > PAGE {
                break;
            }
            bytes += more;
            end += 1;
        }
        // What is larger than a page runs on into the next.
        let overflow = (bytes.div_ceil(PAGE) - 1) as u32;
        let first = if end > start { first(start) } else { 0 };
        nodes.push(Node { page: *next, overflow, start, end, first });
        *next += 1 + u64::from(overflow);
        start = end;
        if start == count {
            return nodes;
        }
    }
}

impl<E: Entries> Layout<E> {
    /// Lays out buckets, given in order of their names.
    pub(crate) fn new(buckets: Vec<(&'static str, E)>) -> Layout<E> {
        debug_assert!(buckets.is_sorted_by_key(|(name, _)| *name));
        let mut next = FIRST_PAGE;
        let lay = |(name, entries)| {
            let tree = Tree::new(&entries, &mut next);
            (name, entries, tree)
        };
        let buckets = buckets.into_iter().map(lay).collect();
        Layout { buckets, root: next }
    }

    /// Size of the file.
    #[cfg(test)]
    pub(crate) fn bytes(&self) -> u64 {
        (self.root + 1) * PAGE as u64
    }

    /// Gives the file out piece by piece, until `take` says that it is enough.
    pub(crate) fn write(&self, take: &mut dyn FnMut(Vec<u8>) -> bool) {
        let mut piece = Vec::with_capacity(PIECE_BYTES + PAGE);
        for number in [0, 1] {
            self.meta(number, &mut piece);
        }
        let free = Page::begin(&mut piece, FIRST_PAGE - 1, kind::FREELIST, 0, 0);
        free.end(&mut piece);
        for (_, entries, tree) in &self.buckets {
            for (level, nodes) in tree.levels.iter().enumerate() {
                for node in nodes {
                    match level.checked_sub(1) {
                        None => leaf(entries, node, &mut piece),
                        Some(below) => branch(entries, node, &tree.levels[below], &mut piece),
                    }
                    if piece.len() >= PIECE_BYTES
                        && !take(std::mem::replace(&mut piece, Vec::with_capacity(PIECE_BYTES + PAGE)))
                    {
                        return;
                    }
                }
            }
        }
        self.root(&mut piece);
        take(piece);
    }

    fn meta(&self, number: u64, out: &mut Vec<u8>) {
        let page = Page::begin(out, number, kind::META, 0, 0);
        let start = out.len();
        for word in [MAGIC, VERSION, PAGE as u32, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        // Root bucket, its sequence, list of free pages, end, transaction.
        for word in [self.root, 0, FIRST_PAGE - 1, self.root + 1, number] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        debug_assert_eq!(out.len() - start, META_CHECKED);
        let sum = checksum(&out[start..]);
        out.extend_from_slice(&sum.to_le_bytes());
        page.end(out);
    }

    /// The bucket of buckets.
    fn root(&self, out: &mut Vec<u8>) {
        let page = Page::begin(out, self.root, kind::LEAF, self.buckets.len(), 0);
        let mut data = page.start + PAGE_HEADER + self.buckets.len() * ELEMENT;
        for (name, _, _) in &self.buckets {
            element(out, IS_BUCKET, data, name.len(), BUCKET_HEADER);
            data += name.len() + BUCKET_HEADER;
        }
        for (name, _, tree) in &self.buckets {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(&tree.root().to_le_bytes());
            out.extend_from_slice(&0u64.to_le_bytes());
        }
        debug_assert!(out.len() - page.start <= PAGE, "the names of all buckets fit into a page");
        page.end(out);
    }
}

/// A page being written.
struct Page {
    start: usize,
    pages: usize,
}

impl Page {
    fn begin(out: &mut Vec<u8>, number: u64, kind: u16, count: usize, overflow: u32) -> Page {
        let start = out.len();
        out.extend_from_slice(&number.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(count as u16).to_le_bytes());
        out.extend_from_slice(&overflow.to_le_bytes());
        Page { start, pages: overflow as usize + 1 }
    }

    fn end(self, out: &mut Vec<u8>) {
        let end = self.start + self.pages * PAGE;
        debug_assert!(out.len() <= end, "the layout has room for what is written");
        out.resize(end, 0);
    }
}

/// A leaf's element; positions count from it.
fn element(out: &mut Vec<u8>, flags: u32, data: usize, key: usize, value: usize) {
    let position = data - out.len();
    for word in [flags, position as u32, key as u32, value as u32] {
        out.extend_from_slice(&word.to_le_bytes());
    }
}

fn leaf<E: Entries>(entries: &E, node: &Node, out: &mut Vec<u8>) {
    let count = node.end - node.start;
    let page = Page::begin(out, node.page, kind::LEAF, count, node.overflow);
    let mut data = page.start + PAGE_HEADER + count * ELEMENT;
    for index in node.start..node.end {
        let (key, value) = entries.sizes(index);
        element(out, 0, data, key, value);
        data += key + value;
    }
    for index in node.start..node.end {
        entries.key(index, out);
        entries.value(index, out);
    }
    debug_assert_eq!(out.len(), data, "sizes are as they were said");
    page.end(out);
}

fn branch<E: Entries>(entries: &E, node: &Node, below: &[Node], out: &mut Vec<u8>) {
    let children = &below[node.start..node.end];
    let page = Page::begin(out, node.page, kind::BRANCH, children.len(), node.overflow);
    let mut data = page.start + PAGE_HEADER + children.len() * ELEMENT;
    for child in children {
        let (key, _) = entries.sizes(child.first);
        out.extend_from_slice(&((data - out.len()) as u32).to_le_bytes());
        out.extend_from_slice(&(key as u32).to_le_bytes());
        out.extend_from_slice(&child.page.to_le_bytes());
        data += key;
    }
    for child in children {
        entries.key(child.first, out);
    }
    page.end(out);
}
