//! The shim as a program of its own: what the tests of this crate start, and what a node may be given where
//! the whole binary is not wanted in every pod.

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    isopod_runtime::shim::main(&args)
}
