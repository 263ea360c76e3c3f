//! `/etc/passwd` and `/etc/group` of an image, read without leaving its root.

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};

use crate::error::{Context, Error};

/// Largest passwd or group file that is read.
const FILE_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// The ids of a user inside a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group id.
    pub gid: u32,
    /// Groups that `/etc/group` lists the user in.
    pub groups: Vec<u32>,
    /// Home directory, `/` if unknown.
    pub home: String,
}

/// Resolves `user`, `uid`, `user:group`, `uid:gid` and mixtures within `rootfs`. Empty means root.
pub fn resolve_user(rootfs: &Path, user: &str) -> Result<User, Error> {
    let passwd = read_inside(rootfs, "etc/passwd")?;
    let group = read_inside(rootfs, "etc/group")?;
    resolve(&passwd, &group, user)
}

fn resolve(passwd: &str, group: &str, user: &str) -> Result<User, Error> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    // name:password:uid:gid:gecos:home:shell
    let entries = || passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 6);
    let by_name = entries().find(|fields| fields[0] == user);
    let numeric = parse_id(user);
    let entry = by_name.or_else(|| {
        let uid = numeric.as_ref().ok()?.to_string();
        entries().find(|fields| fields[2] == uid)
    });
    let (name, uid, gid, home) = match (&entry, numeric) {
        (Some(fields), _) => (fields[0], parse_id(fields[2])?, parse_id(fields[3])?, fields[5]),
        (None, Ok(uid)) => ("", uid, 0, "/"),
        (None, Err(_)) if user.bytes().all(|b| b.is_ascii_digit()) => {
            return Err(Error::Invalid(format!("user id {user} is not between 0 and 4294967294")));
        }
        (None, Err(_)) => return Err(Error::Invalid(format!("no user {user:?} in the image's /etc/passwd"))),
    };
    let mut resolved = User { uid, gid, groups: Vec::new(), home: home.to_owned() };
    // name:password:gid:members
    let groups = || group.lines().map(|line| line.split(':').collect::<Vec<_>>()).filter(|f| f.len() >= 4);
    if let Some(wanted) = wanted_group.filter(|g| !g.is_empty()) {
        resolved.gid = match groups().find(|fields| fields[0] == wanted) {
            Some(fields) => parse_id(fields[2])?,
            None => parse_id(wanted)
                .map_err(|_| Error::Invalid(format!("no group {wanted:?} in the image's /etc/group")))?,
        };
    }
    if !name.is_empty() {
        for fields in groups() {
            if fields[3].split(',').any(|member| member == name)
                && let Ok(gid) = parse_id(fields[2])
                && !resolved.groups.contains(&gid)
            {
                resolved.groups.push(gid);
            }
        }
    }
    Ok(resolved)
}

/// Ids are unsigned 32-bit numbers; the largest means "no change" to the kernel and is refused.
fn parse_id(text: &str) -> Result<u32, Error> {
    match text.parse::<u32>() {
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(Error::Invalid(format!("{text:?} is not a user or group id"))),
    }
}

/// Content of a file below `root`, whose symbolic links are followed as if `root` were `/`. Empty if there
/// is none.
fn read_inside(root: &Path, path: &str) -> Result<String, Error> {
    let what = || format!("read {path} in {}", root.display());
    let dir = File::open(root).what(what)?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    let file = match openat2(dir.as_fd(), path, how) {
        Ok(fd) => File::from(fd),
        Err(nix::Error::ENOENT | nix::Error::ENOTDIR) => return Ok(String::new()),
        Err(e) => return Err(e).what(what),
    };
    if !file.metadata().what(what)?.is_file() {
        return Ok(String::new());
    }
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).what(what)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:web:/var/www:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nwww:x:34:\nlogs:x:4:web,other\n";

    #[test]
    fn table() {
        let check = |user: &str, expected: Result<(u32, u32, Vec<u32>), &str>| {
            let got =
                resolve(PASSWD, GROUP, user).map(|u| (u.uid, u.gid, u.groups)).map_err(|e| e.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{user}");
        };
        check("", Ok((0, 0, vec![])));
        check("web", Ok((33, 34, vec![4])));
        check("33", Ok((33, 34, vec![4])));
        check("web:logs", Ok((33, 4, vec![4])));
        check("1000", Ok((1000, 0, vec![])));
        check("1000:2000", Ok((1000, 2000, vec![])));
        check("nobody", Err("no user \"nobody\" in the image's /etc/passwd"));
        check("web:nogroup", Err("no group \"nogroup\" in the image's /etc/group"));
        check("4294967295", Err("user id 4294967295 is not between 0 and 4294967294"));
        check("2147483648", Ok((2147483648, 0, vec![])));
    }
}
