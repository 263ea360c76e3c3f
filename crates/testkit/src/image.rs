//! Container images as docker archives, as `docker save` writes them, built from files.

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// An image to be built: files of one layer and a configuration.
#[derive(Debug, Default)]
pub struct Image {
    /// Name with tag.
    pub name: String,
    /// Path in the image, content, mode.
    files: Vec<(String, Vec<u8>, u32)>,
    /// Path in the image, target.
    links: Vec<(String, String)>,
    directories: Vec<String>,
    /// `Entrypoint`.
    pub entrypoint: Vec<String>,
    /// `Cmd`.
    pub cmd: Vec<String>,
    /// `Env`, as `NAME=value`.
    pub env: Vec<String>,
    /// `User`.
    pub user: String,
    /// `WorkingDir`.
    pub working_dir: String,
}

impl Image {
    /// An empty image.
    pub fn new(name: &str) -> Self {
        Image { name: name.to_owned(), ..Image::default() }
    }
    /// Adds a file.
    #[must_use]
    pub fn file(mut self, path: &str, content: impl Into<Vec<u8>>, mode: u32) -> Self {
        self.files.push((path.trim_start_matches('/').to_owned(), content.into(), mode));
        self
    }
    /// Adds a symbolic link.
    #[must_use]
    pub fn link(mut self, path: &str, target: &str) -> Self {
        self.links.push((path.trim_start_matches('/').to_owned(), target.to_owned()));
        self
    }
    /// Adds an empty directory.
    #[must_use]
    pub fn directory(mut self, path: &str) -> Self {
        self.directories.push(path.trim_matches('/').to_owned());
        self
    }
    /// Adds a file of the machine under a path of the image, with its mode.
    pub fn copy(mut self, from: &Path, to: &str) -> Result<Self> {
        use std::os::unix::fs::PermissionsExt;
        let mut content = Vec::new();
        let mut file = File::open(from).with_context(|| format!("open {}", from.display()))?;
        let mode = file.metadata()?.permissions().mode() & 0o7777;
        file.read_to_end(&mut content)?;
        self.files.push((to.trim_start_matches('/').to_owned(), content, mode));
        Ok(self)
    }

    fn layer(&self) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let header = |kind, mode, size| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_size(size);
            header.set_mtime(1);
            header.set_uid(0);
            header.set_gid(0);
            header
        };
        for directory in &self.directories {
            let mode = if directory == "tmp" { 0o1777 } else { 0o755 };
            tar.append_data(&mut header(tar::EntryType::Directory, mode, 0), directory, &[][..])?;
        }
        for (path, content, mode) in &self.files {
            let mut header = header(tar::EntryType::Regular, *mode, content.len() as u64);
            tar.append_data(&mut header, path, content.as_slice())?;
        }
        for (path, target) in &self.links {
            tar.append_link(&mut header(tar::EntryType::Symlink, 0o777, 0), path, target)?;
        }
        Ok(tar.into_inner()?)
    }

    /// Writes the archive into `directory`; gives its path.
    pub fn write(&self, directory: &Path) -> Result<PathBuf> {
        let layer = self.layer()?;
        let hex =
            |bytes: &[u8]| -> String { Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect() };
        let config = json!({
            "architecture": if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" },
            "os": "linux", "created": "2024-01-01T00:00:00Z",
            "config": {"Entrypoint": self.entrypoint, "Cmd": self.cmd, "Env": self.env,
                "User": self.user, "WorkingDir": self.working_dir},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(&layer))]},
            "history": [{"created": "2024-01-01T00:00:00Z"}],
        })
        .to_string();
        let config_name = format!("{}.json", hex(config.as_bytes()));
        let manifest =
            json!([{"Config": config_name, "RepoTags": [self.name], "Layers": ["layer.tar"]}]).to_string();
        let path = directory.join(format!("{}.tar", self.name.replace(['/', ':'], "_")));
        let mut tar = tar::Builder::new(File::create(&path).context("create the archive")?);
        for (name, content) in [
            (config_name.as_str(), config.as_bytes()),
            ("layer.tar", layer.as_slice()),
            ("manifest.json", manifest.as_bytes()),
        ] {
            let mut header = tar::Header::new_gnu();
            header.set_mode(0o644);
            header.set_size(content.len() as u64);
            tar.append_data(&mut header, name, content)?;
        }
        tar.finish()?;
        Ok(path)
    }
}

/// `get HOST PORT PATH` prints the body of an HTTP answer.
const GET: &str = "#!/bin/sh\nset -o pipefail\nprintf 'GET %s HTTP/1.0\\r\\nHost: %s\\r\\n\\r\\n' \"$3\" \"$1\" | timeout 5 nc \"$1\" \"$2\" | sed '1,/^\\r$/d'\n";

/// An image of Debian's busybox-static, with its applets as links in /bin.
pub fn busybox(name: &str) -> Result<Image> {
    let mut image = Image::new(name)
        .copy(Path::new("/bin/busybox"), "/bin/busybox")
        .context("Debian's busybox-static is needed")?
        .file("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n", 0o644)
        .file("/etc/group", "root:x:0:\nnogroup:x:65534:\n", 0o644)
        // Debian's static wget crashes in its own name look-up, so requests are made by hand.
        .file("/bin/get", GET, 0o755)
        .directory("tmp")
        .directory("root")
        .directory("dev")
        .directory("proc")
        .directory("sys");
    for applet in [
        "sh",
        "cat",
        "ls",
        "echo",
        "sleep",
        "wget",
        "nc",
        "httpd",
        "nslookup",
        "id",
        "env",
        "hostname",
        "date",
        "touch",
        "mkdir",
        "rm",
        "ln",
        "test",
        "true",
        "false",
        "grep",
        "sed",
        "head",
        "tail",
        "wc",
        "ps",
        "kill",
        "stat",
        "mount",
        "df",
        "dd",
        "tar",
        "ip",
        "ping",
        "seq",
        "tr",
        "cut",
        "sort",
        "find",
        "chmod",
        "chown",
        "pwd",
        "stty",
        "tty",
        "vi",
        "awk",
        "base64",
        "sha256sum",
        "timeout",
        "trap",
        "printf",
        "expr",
        "uname",
        "whoami",
        "nproc",
        "free",
        "mv",
        "cp",
    ] {
        image = image.link(&format!("/bin/{applet}"), "busybox");
    }
    // Names are looked up through glibc's loadable modules, also by a static program.
    let libraries = Path::new("/lib").join(format!("{}-linux-gnu", std::env::consts::ARCH));
    for library in ["libc.so.6", "libresolv.so.2", "libnss_dns.so.2", "libnss_files.so.2"] {
        let from = libraries.join(library);
        image = image.copy(&from, &from.to_string_lossy())?;
    }
    let loader = if cfg!(target_arch = "x86_64") {
        "/lib64/ld-linux-x86-64.so.2"
    } else {
        "/lib/ld-linux-aarch64.so.1"
    };
    image = image.copy(Path::new(loader), loader)?;
    image.cmd = vec!["sh".into()];
    image.env = vec!["PATH=/usr/local/bin:/usr/bin:/bin".into()];
    Ok(image)
}
