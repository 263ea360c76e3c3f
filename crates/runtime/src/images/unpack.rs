//! Unpacking a layer into a directory that nothing in the layer can leave.
//!
//! Every name is resolved by the kernel with `RESOLVE_IN_ROOT` relative to a descriptor of the layer's
//! directory, and the last component is never followed. Whiteouts become overlayfs's own: a character device
//! 0/0, and the attribute `trusted.overlay.opaque`. Attributes of overlayfs in the layer itself are dropped,
//! since they would redirect lookups.
#![allow(unsafe_code, reason = "extended attributes have no safe wrapper")]

use std::cell::Cell;
use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::libc;
use nix::sys::stat::{
    FchmodatFlags, Mode, SFlag, UtimensatFlags, fchmod, fchmodat, mkdirat, mknodat, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, symlinkat, unlinkat};
use tar::{Entry, EntryType};

use super::Usage;
use crate::error::{Context, Error};

/// Most files that a layer may have: inodes are a shared resource of the node.
const ENTRIES_MAX: u64 = 5_000_000;

/// Most bytes that the files of a layer may have, unpacked. The largest layers that are in use, of models for
/// machine learning, have some tens of GiB; a bomb of zeros has as many as one likes.
pub(crate) const LAYER_BYTES_MAX: u64 = 128 << 30;

/// Most bytes that the headers of one entry may have: long names and extended attributes are read into memory.
const HEADERS_BYTES_MAX: u64 = 1 << 20;

/// Reads only as much as the entry at hand may take.
struct Metered<R> {
    inner: R,
    left: Rc<Cell<u64>>,
}

impl<R: Read> Read for Metered<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let left = usize::try_from(self.left.get()).unwrap_or(usize::MAX);
        if left == 0 && !buffer.is_empty() {
            let message = format!("the headers of an entry have more than {HEADERS_BYTES_MAX} bytes");
            return Err(std::io::Error::other(message));
        }
        let wanted = buffer.len().min(left);
        let n = self.inner.read(&mut buffer[..wanted])?;
        self.left.set(self.left.get() - n as u64);
        Ok(n)
    }
}

/// Unpacks the tar stream into `dir`, which exists and is empty.
pub(crate) fn unpack(stream: impl Read, dir: &Path) -> Result<Usage, Error> {
    unpack_within(stream, dir, LAYER_BYTES_MAX)
}

fn unpack_within(stream: impl Read, dir: &Path, bytes_max: u64) -> Result<Usage, Error> {
    let root = File::open(dir).what(|| format!("open {}", dir.display()))?;
    let mut unpacker = Unpacker {
        root: root.into(),
        usage: Usage::default(),
        bytes_max,
        parent: None,
        dir_times: Vec::new(),
    };
    let budget = Rc::new(Cell::new(HEADERS_BYTES_MAX));
    let mut archive = tar::Archive::new(Metered { inner: stream, left: budget.clone() });
    for entry in archive.entries().what(|| "read layer".to_owned())? {
        let mut entry = entry.what(|| "read layer".to_owned())?;
        // This entry's content, its padding, and the headers of the next one.
        let content = entry.size().max(entry.header().entry_size().unwrap_or(0));
        budget.set(content.saturating_add(HEADERS_BYTES_MAX));
        unpacker.usage.inodes += 1;
        if unpacker.usage.inodes > ENTRIES_MAX {
            return Err(Error::TooLarge(format!("layer has more than {ENTRIES_MAX} entries")));
        }
        let path = clean(&entry.path_bytes())?;
        unpacker.entry(&mut entry, &path).map_err(|e| match e {
            Error::TooLarge(message) => Error::TooLarge(message),
            e => Error::Invalid(format!("layer entry {}: {e}", path.display())),
        })?;
    }
    unpacker.restore_dir_times()?;
    Ok(unpacker.usage)
}

/// The path relative to the root; one that tries to go above the root is refused.
fn clean(bytes: &[u8]) -> Result<PathBuf, Error> {
    let mut out = PathBuf::new();
    for component in Path::new(OsStr::from_bytes(bytes)).components() {
        match component {
            Component::Normal(part) => out.push(part),
            Component::RootDir | Component::CurDir => {}
            Component::ParentDir | Component::Prefix(_) => {
                return Err(Error::Invalid(format!(
                    "layer entry {:?} leaves the root",
                    String::from_utf8_lossy(bytes)
                )));
            }
        }
    }
    Ok(out)
}

struct Unpacker {
    root: OwnedFd,
    usage: Usage,
    bytes_max: u64,
    /// The directory last used: entries of a directory follow one another.
    parent: Option<(PathBuf, OwnedFd)>,
    /// Times of directories are set at the end, since filling them changes them.
    dir_times: Vec<(PathBuf, TimeSpec)>,
}

/// Owner, mode and time of an entry, checked.
struct Meta {
    uid: Uid,
    gid: Gid,
    mode: Mode,
    mtime: TimeSpec,
}

impl Meta {
    fn of<R: Read>(entry: &Entry<'_, R>) -> Result<Self, Error> {
        let header = entry.header();
        let id = |value: std::io::Result<u64>, what: &str| -> Result<u32, Error> {
            let value = value.what(|| format!("read {what}"))?;
            match u32::try_from(value) {
                Ok(id) if id != u32::MAX => Ok(id),
                _ => Err(Error::Invalid(format!("{what} {value} is not between 0 and 4294967294"))),
            }
        };
        let mode = header.mode().what(|| "read mode".to_owned())?;
        let mtime = header.mtime().what(|| "read time".to_owned())?;
        Ok(Self {
            uid: Uid::from_raw(id(header.uid(), "uid")?),
            gid: Gid::from_raw(id(header.gid(), "gid")?),
            mode: Mode::from_bits_truncate(mode & 0o7777),
            mtime: TimeSpec::new(i64::try_from(mtime).unwrap_or(0), 0),
        })
    }
}

impl Unpacker {
    fn entry<R: Read>(&mut self, entry: &mut Entry<'_, R>, path: &Path) -> Result<(), Error> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader) {
            return Ok(());
        }
        let meta = Meta::of(entry)?;
        let Some(name) = path.file_name().map(OsStr::to_owned) else {
            // The entry of the root itself.
            return self.finish_dir(Path::new(""), entry, &meta);
        };
        let dir = self.dir(path.parent().unwrap_or(Path::new("")))?;
        let dir = dir.as_fd();
        if let Some(hidden) = name.as_bytes().strip_prefix(b".wh.") {
            return whiteout(dir, hidden);
        }
        match kind {
            EntryType::Directory => self.make_dir(dir, &name, path, entry, &meta),
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                self.make_file(dir, &name, entry, &meta)
            }
            EntryType::Symlink => {
                let target = link_target(entry)?;
                clear(dir, &name)?;
                symlinkat(target.as_os_str(), dir, name.as_os_str())
                    .what(|| "make symbolic link".to_owned())?;
                set_owner_and_time(dir, &name, &meta)
            }
            EntryType::Link => {
                let target = clean(link_target(entry)?.as_bytes())?;
                self.make_hard_link(dir, &name, &target)
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => make_special(dir, &name, entry, &meta),
            other => Err(Error::Invalid(format!("entry type {other:?} is not supported"))),
        }
    }

    /// A descriptor of a directory, made with its parents if it is not there.
    fn dir(&mut self, path: &Path) -> Result<OwnedFd, Error> {
        let duplicate = |fd: &OwnedFd| fd.try_clone().what(|| "duplicate a descriptor".to_owned());
        if path.as_os_str().is_empty() {
            return duplicate(&self.root);
        }
        if let Some((known, fd)) = &self.parent
            && known == path
        {
            return duplicate(fd);
        }
        let fd = match self.open_dir(path) {
            Ok(fd) => fd,
            Err(nix::Error::ENOENT) => {
                let name = path.file_name().unwrap_or_default();
                let parent = self.dir(path.parent().unwrap_or(Path::new("")))?;
                mkdirat(&parent, name, Mode::from_bits_truncate(0o755))
                    .what(|| format!("make directory {}", path.display()))?;
                fchmodat(&parent, name, Mode::from_bits_truncate(0o755), FchmodatFlags::FollowSymlink)
                    .what(|| format!("set the mode of {}", path.display()))?;
                self.open_dir(path).what(|| format!("open {}", path.display()))?
            }
            Err(e) => return Err(e).what(|| format!("open {}", path.display())),
        };
        self.parent = Some((path.to_owned(), duplicate(&fd)?));
        Ok(fd)
    }

    fn open_dir(&self, path: &Path) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        openat2(self.root.as_fd(), path, how)
    }

    fn make_dir<R: Read>(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        path: &Path,
        entry: &mut Entry<'_, R>,
        meta: &Meta,
    ) -> Result<(), Error> {
        match mkdirat(dir, name, Mode::from_bits_truncate(0o700)) {
            Ok(()) => {}
            Err(nix::Error::EEXIST) if is_dir(dir, name) => {}
            Err(nix::Error::EEXIST) => {
                clear(dir, name)?;
                mkdirat(dir, name, Mode::from_bits_truncate(0o700)).what(|| "make directory".to_owned())?;
            }
            Err(e) => return Err(e).what(|| "make directory".to_owned()),
        }
        self.finish_dir(path, entry, meta)
    }

    fn finish_dir<R: Read>(
        &mut self,
        path: &Path,
        entry: &mut Entry<'_, R>,
        meta: &Meta,
    ) -> Result<(), Error> {
        let fd = self.dir(path)?;
        own(&fd, meta)?;
        set_attributes(&fd, entry)?;
        self.dir_times.push((path.to_owned(), meta.mtime));
        Ok(())
    }

    fn make_file<R: Read>(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &OsStr,
        entry: &mut Entry<'_, R>,
        meta: &Meta,
    ) -> Result<(), Error> {
        clear(dir, name)?;
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd =
            openat(dir, name, flags, Mode::from_bits_truncate(0o600)).what(|| "create file".to_owned())?;
        let mut file = File::from(fd);
        // What a sparse file unpacks to counts, not what it takes in the archive; so it is measured while read.
        let left = self.bytes_max - self.usage.bytes;
        let written = std::io::copy(&mut entry.take(left + 1), &mut file).what(|| "write file".to_owned())?;
        if written > left {
            return Err(Error::TooLarge(format!("layer has more than {} bytes", self.bytes_max)));
        }
        self.usage.bytes += written;
        let fd = OwnedFd::from(file);
        own(&fd, meta)?;
        set_attributes(&fd, entry)?;
        nix::sys::stat::futimens(&fd, &meta.mtime, &meta.mtime).what(|| "set times".to_owned())
    }

    fn make_hard_link(&mut self, dir: BorrowedFd<'_>, name: &OsStr, target: &Path) -> Result<(), Error> {
        let Some(target_name) = target.file_name() else {
            return Err(Error::Invalid("hard link to the root".to_owned()));
        };
        let target_dir = self.dir(target.parent().unwrap_or(Path::new("")))?;
        clear(dir, name)?;
        // Without AT_SYMLINK_FOLLOW a link to a symbolic link links the link.
        linkat(&target_dir, target_name, dir, name, AtFlags::empty())
            .what(|| format!("link to {}", target.display()))
    }

    fn restore_dir_times(&mut self) -> Result<(), Error> {
        for (path, time) in std::mem::take(&mut self.dir_times).iter().rev() {
            // A later entry may have replaced the directory.
            if let Ok(fd) = self.dir(path) {
                nix::sys::stat::futimens(&fd, time, time)
                    .what(|| format!("set times of {}", path.display()))?;
            }
        }
        Ok(())
    }
}

fn link_target<R: Read>(entry: &Entry<'_, R>) -> Result<OsString, Error> {
    match entry.link_name_bytes() {
        Some(target) if !target.is_empty() => Ok(OsString::from_vec(target.into_owned())),
        _ => Err(Error::Invalid("link without a target".to_owned())),
    }
}

/// Owner first, since a change of owner clears the set-id bits.
fn own(fd: &OwnedFd, meta: &Meta) -> Result<(), Error> {
    nix::unistd::fchown(fd, Some(meta.uid), Some(meta.gid)).what(|| "set owner".to_owned())?;
    fchmod(fd, meta.mode).what(|| "set mode".to_owned())
}

fn set_owner_and_time(dir: BorrowedFd<'_>, name: &OsStr, meta: &Meta) -> Result<(), Error> {
    fchownat(dir, name, Some(meta.uid), Some(meta.gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .what(|| "set owner".to_owned())?;
    utimensat(dir, name, &meta.mtime, &meta.mtime, UtimensatFlags::NoFollowSymlink)
        .what(|| "set times".to_owned())
}

fn make_special<R: Read>(
    dir: BorrowedFd<'_>,
    name: &OsStr,
    entry: &Entry<'_, R>,
    meta: &Meta,
) -> Result<(), Error> {
    let header = entry.header();
    let kind = match header.entry_type() {
        EntryType::Char => SFlag::S_IFCHR,
        EntryType::Block => SFlag::S_IFBLK,
        _ => SFlag::S_IFIFO,
    };
    let number = |value: std::io::Result<Option<u32>>| -> Result<u64, Error> {
        Ok(u64::from(value.what(|| "read device number".to_owned())?.unwrap_or(0)))
    };
    let device = match kind {
        SFlag::S_IFIFO => 0,
        _ => nix::sys::stat::makedev(number(header.device_major())?, number(header.device_minor())?),
    };
    clear(dir, name)?;
    mknodat(dir, name, kind, meta.mode, device).what(|| "make special file".to_owned())?;
    set_owner_and_time(dir, name, meta)?;
    fchmodat(dir, name, meta.mode, FchmodatFlags::FollowSymlink).what(|| "set mode".to_owned())
}

/// `.wh.NAME` hides NAME of the layers below, `.wh..wh..opq` all that the directory has below.
fn whiteout(dir: BorrowedFd<'_>, hidden: &[u8]) -> Result<(), Error> {
    if hidden == b".wh..opq" {
        return set_attribute(&dir, b"trusted.overlay.opaque", b"y");
    }
    if hidden.starts_with(b".wh.") || hidden.is_empty() || hidden == b"." || hidden == b".." {
        // Bookkeeping of aufs.
        return Ok(());
    }
    match mknodat(dir, OsStr::from_bytes(hidden), SFlag::S_IFCHR, Mode::empty(), 0) {
        // The layer has the name itself: that is what counts.
        Ok(()) | Err(nix::Error::EEXIST) => Ok(()),
        Err(e) => Err(e).what(|| "make whiteout".to_owned()),
    }
}

fn is_dir(dir: BorrowedFd<'_>, name: &OsStr) -> bool {
    nix::sys::stat::fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
        .is_ok_and(|stat| stat.st_mode & libc::S_IFMT == libc::S_IFDIR)
}

/// Removes what an earlier entry of the same layer left at this name.
fn clear(dir: BorrowedFd<'_>, name: &OsStr) -> Result<(), Error> {
    match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(nix::Error::ENOENT) => Ok(()),
        Err(nix::Error::EISDIR) => {
            // `remove_dir_all` never follows links; the descriptor keeps it inside the layer.
            let path = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
            std::fs::remove_dir_all(&path).what(|| "remove directory".to_owned())
        }
        Err(e) => Err(e).what(|| "remove".to_owned()),
    }
}

/// Attributes of files that may come with a layer: those of users, and file capabilities.
fn set_attributes<R: Read>(fd: &OwnedFd, entry: &mut Entry<'_, R>) -> Result<(), Error> {
    let Some(extensions) = entry.pax_extensions().what(|| "read attributes".to_owned())? else {
        return Ok(());
    };
    for extension in extensions {
        let extension = extension.what(|| "read attributes".to_owned())?;
        if let Some(name) = extension.key_bytes().strip_prefix(b"SCHILY.xattr.")
            && (name.starts_with(b"user.") || name == b"security.capability")
        {
            set_attribute(fd, name, extension.value_bytes())?;
        }
    }
    Ok(())
}

fn set_attribute(fd: &impl AsRawFd, name: &[u8], value: &[u8]) -> Result<(), Error> {
    let name = CString::new(name).map_err(Error::invalid)?;
    // SAFETY: the descriptor is open, the name is a C string, and the value's length is its own.
    let outcome =
        unsafe { libc::fsetxattr(fd.as_raw_fd(), name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    match nix::Error::result(outcome) {
        // The file system of the store has no attributes of users (tmpfs of old kernels): files still work.
        Err(nix::Error::ENOTSUP) if name.as_bytes().starts_with(b"user.") => Ok(()),
        other => other.map(drop).what(|| format!("set attribute {}", name.to_string_lossy())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{FileTypeExt, MetadataExt};

    struct Layer(tar::Builder<Vec<u8>>);

    impl Layer {
        fn new() -> Self {
            Self(tar::Builder::new(Vec::new()))
        }

        fn add(mut self, kind: EntryType, name: &str, mode: u32, link: &str, data: &[u8]) -> Self {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            // Names that `set_path` would refuse are the point of these tests.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_mode(mode);
            header.set_uid(7);
            header.set_gid(8);
            header.set_mtime(1000);
            header.set_size(data.len() as u64);
            header.set_cksum();
            self.0.append(&header, data).unwrap();
            self
        }

        fn unpack(self) -> (tempfile::TempDir, Result<Usage, Error>) {
            let outer = tempfile::tempdir().unwrap();
            let dir = outer.path().join("layer");
            std::fs::create_dir(&dir).unwrap();
            let outcome = unpack(self.0.into_inner().unwrap().as_slice(), &dir);
            (outer, outcome)
        }
    }

    #[test]
    fn files_links_modes_and_owners() {
        let (dir, outcome) = Layer::new()
            .add(EntryType::Directory, "./usr/", 0o755, "", b"")
            .add(EntryType::Regular, "usr/bin/tool", 0o4755, "", b"hello")
            .add(EntryType::Link, "usr/bin/same", 0o755, "usr/bin/tool", b"")
            .add(EntryType::Symlink, "bin", 0o777, "/usr/bin", b"")
            .add(EntryType::Regular, "bin/other", 0o644, "", b"x")
            .unpack();
        assert_eq!(outcome.unwrap(), Usage { bytes: 6, inodes: 5 });
        let layer = dir.path().join("layer");
        let tool = std::fs::metadata(layer.join("usr/bin/tool")).unwrap();
        assert_eq!(
            (tool.mode() & 0o7777, tool.uid(), tool.gid(), tool.nlink(), tool.mtime()),
            (0o4755, 7, 8, 2, 1000)
        );
        // Through the link, as if the layer were the root.
        assert_eq!(std::fs::read(layer.join("usr/bin/other")).unwrap(), b"x");
    }

    #[test]
    fn whiteouts_become_those_of_overlayfs() {
        let (dir, outcome) = Layer::new()
            .add(EntryType::Regular, "etc/.wh.gone", 0o644, "", b"")
            .add(EntryType::Regular, "var/.wh..wh..opq", 0o644, "", b"")
            .unpack();
        outcome.unwrap();
        let gone = std::fs::symlink_metadata(dir.path().join("layer/etc/gone")).unwrap();
        assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    }

    #[test]
    fn nothing_leaves_the_root() {
        for layer in [
            Layer::new().add(EntryType::Regular, "../escape", 0o644, "", b"x"),
            Layer::new().add(EntryType::Regular, "a/../../escape", 0o644, "", b"x"),
            Layer::new().add(EntryType::Symlink, "up", 0o777, "../..", b"").add(
                EntryType::Regular,
                "up/escape",
                0o644,
                "",
                b"x",
            ),
            Layer::new().add(EntryType::Symlink, "abs", 0o777, "/", b"").add(
                EntryType::Regular,
                "abs/escape",
                0o644,
                "",
                b"x",
            ),
            Layer::new().add(EntryType::Link, "passwd", 0o644, "../../../../../../etc/passwd", b""),
            Layer::new().add(EntryType::Symlink, "f", 0o777, "../escape", b"").add(
                EntryType::Regular,
                "f",
                0o644,
                "",
                b"x",
            ),
        ] {
            let (dir, _) = layer.unpack();
            assert!(!dir.path().join("escape").exists());
            let outside: Vec<_> =
                std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
            assert_eq!(outside, ["layer"]);
            assert!(!std::fs::symlink_metadata(dir.path().join("layer/passwd")).is_ok_and(|m| m.is_file()));
        }
    }

    #[test]
    fn bytes_are_limited() {
        let layer = || {
            Layer::new()
                .add(EntryType::Regular, "a", 0o644, "", &[0; 60])
                .add(EntryType::Regular, "b", 0o644, "", &[0; 41])
                .0
                .into_inner()
                .unwrap()
        };
        let dir = || tempfile::tempdir().unwrap();
        assert_eq!(unpack_within(layer().as_slice(), dir().path(), 101).unwrap().bytes, 101);
        let error = unpack_within(layer().as_slice(), dir().path(), 100).unwrap_err();
        assert!(matches!(&error, Error::TooLarge(m) if m == "layer has more than 100 bytes"), "{error}");
        // The length of a file in a header is only a promise: what is read counts.
        let large = Layer::new().add(EntryType::Regular, "a", 0o644, "", &vec![0; 3 << 20]);
        assert_eq!(large.unpack().1.unwrap().bytes, 3 << 20);
    }

    #[test]
    fn names_are_limited() {
        // A name that would be read into memory before anybody could look at it.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        let stream = header.as_bytes().chain(std::io::repeat(b'a').take(8 << 30));
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(stream, dir.path()).unwrap_err().to_string();
        assert!(error.contains("the headers of an entry have more than 1048576 bytes"), "{error}");
    }

    #[test]
    fn ids_are_checked() {
        let mut header = tar::Header::new_gnu();
        header.set_path("f").unwrap();
        header.set_mode(0o644);
        header.set_uid(u64::from(u32::MAX) + 1);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        let mut builder = tar::Builder::new(Vec::new());
        builder.append(&header, &b""[..]).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let error = unpack(builder.into_inner().unwrap().as_slice(), dir.path()).unwrap_err();
        assert_eq!(error.to_string(), "layer entry f: uid 4294967296 is not between 0 and 4294967294");
    }
}
