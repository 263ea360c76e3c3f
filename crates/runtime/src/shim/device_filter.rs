//! Access to devices on control groups version 2: a small eBPF program attached to the container's group.
//!
//! Version 1 has a controller for it, which the OCI runtime sets. On version 2 a container that may make
//! device nodes, as containers may by default, would reach the node's disks without this.
#![allow(unsafe_code, reason = "bpf(2) has no wrapper")]

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType};
use nix::libc;

/// One instruction: operation, destination and source registers, offset, immediate value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    value: i32,
}

const LOAD_WORD: u8 = 0x61;
const AND_VALUE: u8 = 0x54;
const SHIFT_RIGHT_VALUE: u8 = 0x74;
const MOVE_VALUE: u8 = 0xb4;
const MOVE_REGISTER: u8 = 0xbc;
const JUMP_NOT_EQUAL_VALUE: u8 = 0x56;
const JUMP_NOT_EQUAL_REGISTER: u8 = 0x5e;
const EXIT: u8 = 0x95;

/// Registers: r0 is the answer, r1 the context and then scratch.
const TYPE: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = 7;

const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const ATTACH_TYPE_DEVICE: u32 = 6;
const ATTACH_FLAG_MULTI: u32 = 2;

/// Instructions that answer and end.
const ANSWER: usize = 2;

fn instruction(code: u8, destination: u8, source: u8, offset: i16, value: i32) -> Instruction {
    Instruction { code, registers: destination | source << 4, offset, value }
}

/// The program: the last rule that matches decides, nothing is allowed otherwise.
fn program(rules: &[LinuxDeviceCgroup]) -> Vec<Instruction> {
    let mut out = vec![
        instruction(LOAD_WORD, TYPE, 1, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, TYPE, 0, 0),
        instruction(AND_VALUE, TYPE, 0, 0, 0xffff),
        instruction(SHIFT_RIGHT_VALUE, ACCESS, 0, 0, 16),
        instruction(LOAD_WORD, MAJOR, 1, 4, 0),
        instruction(LOAD_WORD, MINOR, 1, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = rule_block(rule);
        let decides_all = block.len() == ANSWER;
        out.extend(block);
        if decides_all {
            // The kernel refuses instructions that are never reached.
            return out;
        }
    }
    out.push(instruction(MOVE_VALUE, 0, 0, 0, 0));
    out.push(instruction(EXIT, 0, 0, 0, 0));
    out
}

fn rule_block(rule: &LinuxDeviceCgroup) -> Vec<Instruction> {
    let mut checks = Vec::new();
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => Some(TYPE_BLOCK),
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(TYPE_CHAR),
        _ => None,
    };
    if let Some(kind) = kind {
        checks.push(instruction(JUMP_NOT_EQUAL_VALUE, TYPE, 0, 0, kind));
    }
    let access = rule.access().as_deref().map_or(ACCESS_ALL, |access| {
        access.bytes().fold(0, |mask, byte| {
            mask | match byte {
                b'm' => ACCESS_MKNOD,
                b'r' => ACCESS_READ,
                b'w' => ACCESS_WRITE,
                _ => 0,
            }
        })
    });
    if access != ACCESS_ALL {
        // All that is asked for must be among what the rule speaks of.
        checks.push(instruction(MOVE_REGISTER, 1, ACCESS, 0, 0));
        checks.push(instruction(AND_VALUE, 1, 0, 0, access));
        checks.push(instruction(JUMP_NOT_EQUAL_REGISTER, 1, ACCESS, 0, 0));
    }
    for (register, number) in [(MAJOR, rule.major()), (MINOR, rule.minor())] {
        if let Some(number) = number.and_then(|number| i32::try_from(number).ok()).filter(|n| *n >= 0) {
            checks.push(instruction(JUMP_NOT_EQUAL_VALUE, register, 0, 0, number));
        }
    }
    let length = checks.len();
    for (i, check) in checks.iter_mut().enumerate() {
        if matches!(check.code, JUMP_NOT_EQUAL_VALUE | JUMP_NOT_EQUAL_REGISTER) {
            check.offset = i16::try_from(length - i - 1 + ANSWER).expect("a rule is a few instructions");
        }
    }
    checks.push(instruction(MOVE_VALUE, 0, 0, 0, i32::from(rule.allow())));
    checks.push(instruction(EXIT, 0, 0, 0, 0));
    checks
}

/// Whether the rules allow everything, so that no program is needed.
pub(crate) fn allows_all(rules: &[LinuxDeviceCgroup]) -> bool {
    rules.last().is_none_or(|rule| {
        rule.allow()
            && rule.major().is_none()
            && rule.minor().is_none()
            && rule.typ().is_none_or(|t| t == LinuxDeviceType::A)
    })
}

/// Attaches the rules to the group at `dir`.
pub(crate) fn attach(dir: &Path, rules: &[LinuxDeviceCgroup]) -> io::Result<()> {
    let group = File::open(dir)?;
    let program = load(&program(rules))?;
    let mut attributes = [0u32; 32];
    attributes[0] = group.as_raw_fd().cast_unsigned();
    attributes[1] = program.as_raw_fd().cast_unsigned();
    attributes[2] = ATTACH_TYPE_DEVICE;
    attributes[3] = ATTACH_FLAG_MULTI;
    bpf(PROG_ATTACH, &attributes).map(drop)
}

fn load(program: &[Instruction]) -> io::Result<OwnedFd> {
    let license = c"Apache-2.0";
    let mut attributes = [0u32; 32];
    let mut put = |at: usize, pointer: u64| {
        let bytes = pointer.to_ne_bytes();
        attributes[at] = u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        attributes[at + 1] = u32::from_ne_bytes([bytes[4], bytes[5], bytes[6], bytes[7]]);
    };
    put(2, program.as_ptr() as u64);
    put(4, license.as_ptr() as u64);
    attributes[0] = PROG_TYPE_CGROUP_DEVICE;
    attributes[1] = u32::try_from(program.len()).map_err(io::Error::other)?;
    let fd = bpf(PROG_LOAD, &attributes)?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn bpf(command: libc::c_long, attributes: &[u32; 32]) -> io::Result<i32> {
    // SAFETY: the attributes are as large as said, and what they point to outlives the call.
    let answer =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), size_of_val(attributes)) };
    match i32::try_from(answer) {
        Ok(answer) if answer >= 0 => Ok(answer),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use libcontainer::oci_spec::runtime::LinuxDeviceCgroupBuilder;

    fn rules() -> Vec<LinuxDeviceCgroup> {
        let deny = LinuxDeviceCgroupBuilder::default().allow(false).access("rwm").build().unwrap();
        let null = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(LinuxDeviceType::C)
            .major(1i64)
            .minor(3i64)
            .access("rw")
            .build()
            .unwrap();
        vec![deny, null]
    }

    #[test]
    fn jumps_land_behind_their_rule() {
        let program = program(&rules());
        for (i, instruction) in program.iter().enumerate() {
            if matches!(instruction.code, JUMP_NOT_EQUAL_VALUE | JUMP_NOT_EQUAL_REGISTER) {
                let target = i + 1 + usize::try_from(instruction.offset).unwrap();
                assert_eq!(program[target - 1].code, EXIT, "from {i} to {target}");
            }
        }
        assert!(allows_all(&[]));
        assert!(!allows_all(&rules()));
    }

    /// Needs root and a mounted version 2 hierarchy, which every supported machine has.
    #[test]
    fn a_group_loses_its_devices() {
        let mount = crate::cgroup::Cgroups::detect().unwrap().v2.unwrap();
        let dir = mount.join(format!("isopod-test-devices-{}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        attach(&dir, &rules()).unwrap();
        let script = format!(
            "echo $$ > {}/cgroup.procs; (: < /dev/null) && echo null; (: < /dev/zero) 2>/dev/null || echo denied",
            dir.display()
        );
        let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
        std::fs::remove_dir(&dir).unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "null\ndenied\n");
    }
}
