//! Requests, made once and sent many times, in the words of each program.

use base64::engine::general_purpose::STANDARD;
use base64::Engine;

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Operation {
    /// Write a value.
    Put,
    /// Read the latest value.
    Get,
    /// Read whatever the node that was asked has.
    Local,
}

impl Operation {
    /// All of them, in the order in which they are measured.
    pub(crate) const ALL: [Operation; 3] = [Operation::Put, Operation::Get, Operation::Local];

    /// Its name in what is printed and on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Local => "local",
        }
    }
}

/// How a program is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Language {
    /// Ours: keys are paths, and a local read is asked for.
    Ours,
    /// The original's: every read is local, and every write is "done" before it is.
    Original,
    /// etcd's gateway: JSON with keys and values in base64.
    Gateway,
}

impl Language {
    /// The requests for `keys` different keys, or nothing if the program cannot do this.
    pub(crate) fn requests(self, operation: Operation, keys: usize, value_bytes: usize) -> Option<Vec<Vec<u8>>> {
        let value = vec![b'v'; value_bytes];
        (0..keys).map(|key| self.request(operation, &format!("key-{key:08}"), &value)).collect()
    }

    fn request(self, operation: Operation, key: &str, value: &[u8]) -> Option<Vec<u8>> {
        let request = match (self, operation) {
            (Language::Gateway, Operation::Put) => {
                let (key, value) = (STANDARD.encode(key), STANDARD.encode(value));
                with_body("POST", "/v3/kv/put", format!(r#"{{"key":"{key}","value":"{value}"}}"#).as_bytes())
            }
            (Language::Gateway, read) => {
                let serializable = if read == Operation::Local { r#","serializable":true"# } else { "" };
                let body = format!(r#"{{"key":"{}"{serializable}}}"#, STANDARD.encode(key));
                with_body("POST", "/v3/kv/range", body.as_bytes())
            }
            (_, Operation::Put) => with_body("PUT", &format!("/{key}"), value),
            (Language::Ours, Operation::Local) => get(&format!("/{key}?read=local")),
            (Language::Ours, Operation::Get) | (Language::Original, Operation::Local) => get(&format!("/{key}")),
            (Language::Original, Operation::Get) => return None,
        };
        Some(request)
    }

    /// The status of an answer that says that it was done.
    pub(crate) fn good_status(self, operation: Operation) -> u16 {
        match (self, operation) {
            (Language::Ours | Language::Original, Operation::Put) => 204,
            _ => 200,
        }
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn with_body(method: &str, path: &str, body: &[u8]) -> Vec<u8> {
    let head = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_asked_in_its_own_words() {
        let text = |language: Language, operation| {
            let mut all = language.requests(operation, 2, 3)?;
            String::from_utf8(all.remove(1)).ok()
        };
        let head = "HTTP/1.1\r\nHost: localhost\r\n";
        assert_eq!(
            text(Language::Ours, Operation::Put).unwrap(),
            format!("PUT /key-00000001 {head}Content-Length: 3\r\n\r\nvvv")
        );
        assert_eq!(text(Language::Ours, Operation::Local).unwrap(), format!("GET /key-00000001?read=local {head}\r\n"));
        assert_eq!(text(Language::Original, Operation::Get), None);
        assert_eq!(
            text(Language::Gateway, Operation::Local).unwrap(),
            format!(
                "POST /v3/kv/range {head}Content-Length: 46\r\n\r\n{{\"key\":\"a2V5LTAwMDAwMDAx\",\"serializable\":true}}"
            )
        );
        assert!(text(Language::Gateway, Operation::Put).unwrap().ends_with(r#""value":"dnZ2"}"#));
    }
}
