//! Network namespaces for tests: machines and pods that exist only inside the test process.
//!
//! A namespace lives as long as a file descriptor to it, so nothing is left behind however a test ends. Needs root.

use nix::sched::{CloneFlags, setns, unshare};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::process::Command;
use std::time::Duration;

/// How long a connection attempt may take before it counts as unanswered.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A network namespace.
#[derive(Debug)]
pub struct Netns(File);

/// Runs `test` on a thread in a network namespace of its own, loopback up; threads it makes are born there too.
pub fn isolated<T: Send>(test: impl FnOnce() -> T + Send) -> T {
    Netns::new().within(test)
}

impl Netns {
    /// A fresh namespace with loopback up.
    #[must_use]
    #[allow(clippy::new_without_default, reason = "it takes root and the kernel's help")]
    pub fn new() -> Self {
        let file = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (run the tests as root)");
            File::open("/proc/thread-self/ns/net").expect("the thread's own namespace")
        });
        let new = Self(file.join().expect("the thread that makes the namespace"));
        new.run("ip link set lo up");
        new
    }

    /// The calling thread's namespace.
    #[must_use]
    pub fn current() -> Self {
        Self(File::open("/proc/thread-self/ns/net").expect("the thread's own namespace"))
    }

    /// A path that leads to the namespace, valid in this process.
    #[must_use]
    pub fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.0.as_raw_fd())
    }

    /// Runs `work` inside, on a thread of its own.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                setns(&self.0, CloneFlags::CLONE_NEWNET).expect("enter the namespace");
                work()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Runs a command line (split at spaces) inside; it must succeed. Answers what it printed.
    pub fn run(&self, line: &str) -> String {
        self.within(|| run(line))
    }

    /// Joins this namespace and another by a veth pair with an address at each end (`192.0.2.1/24`).
    pub fn join(&self, link: &str, address: &str, other: &Netns, other_link: &str, other_address: &str) {
        self.run(&format!("ip link add {link} type veth peer name {other_link} netns {}", other.ip_name()));
        self.run(&format!("ip address add {address} dev {link}"));
        self.run(&format!("ip link set {link} up"));
        other.run(&format!("ip address add {other_address} dev {other_link}"));
        other.run(&format!("ip link set {other_link} up"));
    }

    /// A name `ip` takes for the namespace: a path, which a child process can follow too.
    fn ip_name(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Serves TCP on `at`: every connection gets one line, `name` and the client's address. Ends with the process.
    pub fn serve_tcp(&self, at: SocketAddr, name: &str) {
        let name = name.to_owned();
        let listener = self.within(|| TcpListener::bind(at)).expect("bind in the namespace");
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(mut client) = client else { return };
                let peer = client.peer_addr().map(|a| a.ip().to_string()).unwrap_or_default();
                let _ = client.write_all(format!("{name} {peer}\n").as_bytes());
            }
        });
    }

    /// Serves UDP on `at`: every datagram is answered with `name` and the client's address. Ends with the process.
    pub fn serve_udp(&self, at: SocketAddr, name: &str) {
        let name = name.to_owned();
        let socket = self.within(|| UdpSocket::bind(at)).expect("bind in the namespace");
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(format!("{name} {}\n", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// [`ask_tcp`] from inside.
    pub fn ask_tcp(&self, to: impl Into<String>) -> Answer {
        let to = to.into();
        self.within(|| ask_tcp(&to))
    }

    /// [`ask_udp`] from inside.
    pub fn ask_udp(&self, to: impl Into<String>) -> Answer {
        let to = to.into();
        self.within(|| ask_udp(&to))
    }
}

/// What came of asking a server of [`Netns::serve_tcp`] or [`Netns::serve_udp`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The server's name, and the address it saw the question come from.
    From(String, IpAddr),
    /// The connection was refused.
    Refused,
    /// Nothing came back.
    Nothing,
    /// Something else.
    Failed(String),
}

impl Answer {
    /// The server's name.
    #[must_use]
    pub fn server(&self) -> Option<&str> {
        match self {
            Self::From(name, _) => Some(name),
            _ => None,
        }
    }

    fn of(result: std::io::Result<String>) -> Self {
        use std::io::ErrorKind;
        match result {
            Ok(line) => match line.trim().split_once(' ').map(|(name, ip)| (name, ip.parse())) {
                Some((name, Ok(ip))) => Self::From(name.into(), ip),
                _ => Self::Failed(line),
            },
            Err(e) if e.kind() == ErrorKind::ConnectionRefused => Self::Refused,
            Err(e) if matches!(e.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => Self::Nothing,
            Err(e) => Self::Failed(e.to_string()),
        }
    }
}

/// Connects to `to` (`IP:PORT`) from the calling thread's namespace and reads the answer.
pub fn ask_tcp(to: &str) -> Answer {
    let ask = || {
        let address: SocketAddr = to.parse().expect("an address with a port");
        let mut stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
        stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        let mut line = String::new();
        stream.read_to_string(&mut line)?;
        Ok(line)
    };
    Answer::of(ask())
}

/// Sends a datagram to `to` from the calling thread's namespace and waits for the answer.
pub fn ask_udp(to: &str) -> Answer {
    let ask = || {
        let address: SocketAddr = to.parse().expect("an address with a port");
        let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(CONNECT_TIMEOUT))?;
        socket.send(b"?")?;
        let mut buffer = [0; 256];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    Answer::of(ask())
}

/// Runs a command line (split at spaces) in the calling thread's namespace; it must succeed.
pub fn run(line: &str) -> String {
    let mut words = line.split_whitespace();
    let output =
        Command::new(words.next().expect("a command")).args(words).output().expect("start the command");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}
