//! The whole node on control groups version 2 alone, which the machine at hand may not have: in a virtual machine
//! with Debian's kernel, emulated where there is no other way. `make test-vm` runs it; it takes a minute or two of
//! an idle machine, so it is not among what `make test` runs.
#![allow(clippy::disallowed_methods, reason = "runs the script that boots the machine")]

use anyhow::{Context, Result, ensure};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

/// Lines of what the machine printed, by section.
fn sections(output: &str) -> BTreeMap<&str, Vec<&str>> {
    let mut found: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut section = "";
    for line in output.lines().map(str::trim_end) {
        match line.strip_prefix("== ") {
            Some(name) => {
                section = name;
                found.entry(section).or_default();
            }
            // Messages of the kernel come in between.
            None if line.starts_with('[') || line.starts_with("vm: ") => {}
            None => found.entry(section).or_default().push(line),
        }
    }
    found
}

fn kubectl() -> Result<std::path::PathBuf> {
    let path = std::env::var_os("PATH").context("PATH")?;
    std::env::split_paths(&path)
        .map(|dir| dir.join("kubectl"))
        .find(|file| file.is_file())
        .context("kubectl is not in PATH (scripts/install-deps test installs it)")
}

#[test]
fn a_node_on_control_groups_version_2() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let dir = tempfile::tempdir()?;
    std::fs::copy(env!("CARGO_BIN_EXE_isopod"), dir.path().join("isopod")).context("copy the binary")?;
    std::fs::copy(kubectl()?, dir.path().join("kubectl")).context("copy kubectl")?;
    for file in ["run", "pods.yaml"] {
        std::fs::copy(root.join("crates/isopod/tests/vm").join(file), dir.path().join(file))?;
    }
    std::fs::write(dir.path().join("programs"), "/usr/sbin/nft\n")?;
    let image = isopod_testkit::busybox("test.local/busybox:1")?.write(dir.path())?;
    std::fs::rename(image, dir.path().join("busybox.tar"))?;
    let ran = Command::new(root.join("scripts/vm")).arg(dir.path()).output().context("run scripts/vm")?;
    let output = String::from_utf8_lossy(&ran.stdout);
    print!("{output}");
    eprint!("{}", String::from_utf8_lossy(&ran.stderr));
    ensure!(output.contains("vm: program ended with 0"), "the machine did not reach the end");
    let found = sections(&output);
    let is = |section: &str, wanted: &[&str]| {
        let lines = found.get(section).map(Vec::as_slice).unwrap_or_default();
        ensure!(lines == wanted, "{section}: {lines:#?}\nwanted: {wanted:#?}");
        Ok(())
    };
    let version = found.get("version").context("version")?;
    // No controller of version 1.
    ensure!(version.first() == Some(&"0"), "{version:#?}");
    is("pod", &["cpu.max 50000 100000", "cpu.weight 35", "memory.max 67108864", "pids.max 4096"])?;
    let container =
        ["cpu.max 50000 100000", "cpu.weight 35", "memory.max 67108864", "memory.swap.max 0", "1"];
    is("container", &container)?;
    // A namespace of control groups hides the node's; the container reads its limit, and cannot change it.
    is("inside", &["0::/", "67108864", "read-only"])?;
    is("devices", &["null", "denied", "privileged"])?;
    let oom = found.get("oom").context("oom")?;
    ensure!(oom.last() == Some(&"OOMKilled 137"), "{oom:#?}");
    let restart = found.get("restart").context("restart")?;
    ensure!(restart.last() == Some(&"same"), "{restart:#?}");
    let demo = found.get("demo").and_then(|lines| lines.first()?.parse::<u32>().ok());
    ensure!(
        demo.is_some_and(|answers| answers >= 2),
        "requests to the Service were not answered by pods: {demo:?}"
    );
    // No group, mount, process or file is left.
    is("clean", &[])?;
    is("end", &[])
}
