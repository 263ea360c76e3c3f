//! The last word of a session on its error stream: a `Status`, since version 4 of the protocol.

use serde_json::{Value, json};

use crate::Error;

/// The outcome of a command, as clients decode it.
pub(crate) fn of_exit(outcome: &Result<i32, Error>) -> Value {
    match outcome {
        Ok(0) => json!({"metadata": {}, "status": "Success"}),
        Ok(code) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("command terminated with non-zero exit code: {code}"),
            "reason": "NonZeroExitCode",
            "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
        }),
        Err(e) => json!({
            "metadata": {},
            "status": "Failure",
            "message": format!("Internal error occurred: {e}"),
            "reason": "InternalError",
            "details": {"causes": [{"message": e.to_string()}]},
            "code": 500,
        }),
    }
}

/// What versions before 4 write: nothing if all went well, else a text.
pub(crate) fn text_of_exit(outcome: &Result<i32, Error>) -> String {
    match outcome {
        Ok(0) => String::new(),
        Ok(code) => format!("command terminated with non-zero exit code: {code}"),
        Err(e) => format!("error executing command in container: {e}"),
    }
}
