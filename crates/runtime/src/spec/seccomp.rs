//! The filter of system calls: the default profile (an allowlist), none, or a file of the node.
//!
//! The lists state which calls the default profiles of containerd and Docker allow: all that programs use
//! and that the kernel checks by namespace or by owner; further ones go with the capability that guards them.

use caps::{Capability, CapsHashSet};
use isopod_cri::v1::LinuxContainerSecurityContext;
use isopod_cri::v1::security_profile::ProfileType;
use serde_json::{Value, json};

use super::{Node, security};
use crate::Error;
use crate::error::Context;

/// Largest profile of a file.
const PROFILE_BYTES_MAX: u64 = 1024 * 1024;

const ALLOWED: &str = "accept accept4 access adjtimex alarm arch_prctl bind brk cachestat capget capset chdir \
    chmod chown chown32 clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 close close_range connect copy_file_range creat dup \
    dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
    epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat faccessat2 fadvise64 \
    fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat fcntl \
    fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs \
    fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
    futimesat get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid getegid32 geteuid \
    geteuid32 getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid \
    getpriority getrandom getresgid getresgid32 getresuid getresuid32 getrlimit getrusage getsid getsockname \
    getsockopt gettid gettimeofday getuid getuid32 getxattr getxattrat inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    io_setup io_submit ioctl ioprio_get ioprio_set ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listmount listxattr listxattrat \
    llistxattr _llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier \
    memfd_create memfd_secret mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 modify_ldt \
    mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink mremap mseal msgctl msgget msgrcv msgsnd msync munlock munlockall munmap \
    name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause pidfd_open \
    pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64 \
    preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
    removexattr removexattrat rename renameat renameat2 restart_syscall riscv_hwprobe rmdir rseq \
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait \
    rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_get_priority_max sched_get_priority_min \
    sched_getaffinity sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval \
    sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 \
    sendmmsg sendmsg sendto set_robust_list set_thread_area set_tid_address setfsgid setfsgid32 setfsuid \
    setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 \
    setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit setsid setsockopt setuid \
    setuid32 setxattr setxattrat shmat shmctl shmdt shmget shutdown sigaltstack signalfd signalfd4 sigprocmask \
    sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statmount statx symlink symlinkat sync \
    sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime \
    timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64 \
    timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat \
    uretprobe utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev \
    process_vm_readv process_vm_writev ptrace";

/// Calls that go with a capability.
const GUARDED: &[(Capability, &str)] = &[
    (Capability::CAP_DAC_READ_SEARCH, "open_by_handle_at"),
    (
        Capability::CAP_SYS_ADMIN,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr \
         move_mount open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog \
         umount umount2 unshare",
    ),
    (Capability::CAP_SYS_BOOT, "reboot"),
    (Capability::CAP_SYS_CHROOT, "chroot"),
    (Capability::CAP_SYS_MODULE, "delete_module finit_module init_module"),
    (Capability::CAP_SYS_PACCT, "acct"),
    (Capability::CAP_SYS_PTRACE, "kcmp pidfd_getfd process_madvise"),
    (Capability::CAP_SYS_RAWIO, "ioperm iopl"),
    (Capability::CAP_SYS_TIME, "clock_settime clock_settime64 settimeofday stime"),
    (Capability::CAP_SYS_TTY_CONFIG, "vhangup"),
    (Capability::CAP_SYS_NICE, "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    (Capability::CAP_SYSLOG, "syslog"),
    (Capability::CAP_BPF, "bpf"),
    (Capability::CAP_PERFMON, "perf_event_open"),
];

/// The namespace flags of clone: making namespaces takes CAP_SYS_ADMIN.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
const AF_VSOCK: u64 = 40;
const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// The filter of a container, if it has one.
pub(super) fn profile(security: &LinuxContainerSecurityContext, node: &Node) -> Result<Option<Value>, Error> {
    if security.privileged || !node.seccomp {
        return Ok(None);
    }
    let Some(profile) = &security.seccomp else { return Ok(None) };
    match ProfileType::try_from(profile.profile_type).unwrap_or_default() {
        ProfileType::Unconfined => Ok(None),
        ProfileType::RuntimeDefault => Ok(Some(default(&security::effective(security, node)?))),
        ProfileType::Localhost => {
            let path = profile.localhost_ref.trim_start_matches("localhost/");
            let path = std::path::Path::new(path);
            if !path.is_absolute() {
                return Err(Error::Invalid(format!("seccomp profile {} is not absolute", path.display())));
            }
            let size = std::fs::metadata(path).what(|| format!("read {}", path.display()))?.len();
            if size > PROFILE_BYTES_MAX {
                return Err(Error::TooLarge(format!("seccomp profile {} is too large", path.display())));
            }
            let bytes = std::fs::read(path).what(|| format!("read {}", path.display()))?;
            serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|e| Error::Invalid(format!("seccomp profile {}: {e}", path.display())))
        }
    }
}

fn default(capabilities: &CapsHashSet) -> Value {
    let architectures: &[&str] = match std::env::consts::ARCH {
        "x86_64" => &["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "aarch64" => &["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"],
        _ => &[],
    };
    let allow =
        |names: Vec<&str>, args: Value| json!({"names": names, "action": "SCMP_ACT_ALLOW", "args": args});
    let mut rules = vec![allow(ALLOWED.split_whitespace().collect(), json!([]))];
    for (capability, names) in GUARDED {
        if capabilities.contains(capability) {
            rules.push(allow(names.split_whitespace().collect(), json!([])));
        }
    }
    // Sockets to the host of a virtual machine are no business of a container.
    rules.push(allow(vec!["socket"], json!([{"index": 0, "value": AF_VSOCK, "op": "SCMP_CMP_NE"}])));
    for persona in [0u64, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff] {
        rules.push(allow(vec!["personality"], json!([{"index": 0, "value": persona, "op": "SCMP_CMP_EQ"}])));
    }
    if !capabilities.contains(&Capability::CAP_SYS_ADMIN) {
        let no_flags = json!([
            {"index": 0, "value": CLONE_NAMESPACES, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}
        ]);
        rules.push(allow(vec!["clone"], no_flags));
        // Its flags lie in memory where no filter sees them; told that there is no such call, libraries use
        // clone.
        rules.push(json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS, "args": []}));
    }
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": architectures,
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guarded_calls_follow_capabilities() {
        let names = |profile: &Value| {
            let rules = profile["syscalls"].as_array().unwrap().clone();
            rules
                .iter()
                .filter(|rule| rule["action"] == "SCMP_ACT_ALLOW")
                .flat_map(|rule| rule["names"].as_array().unwrap().clone())
                .map(|name| name.as_str().unwrap().to_owned())
                .collect::<std::collections::BTreeSet<_>>()
        };
        let none = names(&default(&CapsHashSet::new()));
        for call in [
            "mount",
            "unshare",
            "setns",
            "bpf",
            "keyctl",
            "add_key",
            "userfaultfd",
            "io_uring_setup",
            "clone3",
        ] {
            assert!(!none.contains(call), "{call}");
        }
        let admin = names(&default(&CapsHashSet::from([Capability::CAP_SYS_ADMIN])));
        assert!(admin.contains("mount") && admin.contains("clone3") && !admin.contains("reboot"));
    }
}
