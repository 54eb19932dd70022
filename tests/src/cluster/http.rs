//! A blocking HTTP/1.1 client in a few lines, which sends exactly the bytes it is told to.
//!
//! Tests need it to send what a proper client library refuses to: any byte in the path, methods nobody knows, a length
//! without its body. It understands what our node answers: `Content-Length`, chunked bodies, answers without a body.
//! Left out: redirects, compression, TLS, trailers.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// Longer than a node may take to say that it does not know; a node that lets a request hang fails the test.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(20);

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order of the answer.
    pub headers: Vec<(String, String)>,
    /// The body, without its framing.
    pub body: Vec<u8>,
}

impl Response {
    /// All values of a header, joined with `, ` as the standard allows; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<String> {
        let values: Vec<&str> =
            self.headers.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect();
        (!values.is_empty()).then(|| values.join(", "))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A node's client address. Each request opens its own connection; see [`Http::connect`] for many on one.
#[derive(Clone, Debug)]
pub struct Http {
    address: SocketAddr,
    timeout: Duration,
}

impl Http {
    /// A client for 127.0.0.1 on `port`.
    pub fn new(port: u16) -> Http {
        Http { address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)), timeout: DEFAULT_TIMEOUT }
    }

    /// The same with another limit on how long one read or write may take.
    pub fn with_timeout(&self, timeout: Duration) -> Http {
        Http { address: self.address, timeout }
    }

    /// Opens a connection that stays open between requests.
    ///
    /// # Errors
    /// Whatever the system says when nobody listens.
    pub fn connect(&self) -> io::Result<Connection> {
        let stream = TcpStream::connect_timeout(&self.address, self.timeout)?;
        stream.set_read_timeout(Some(self.timeout))?;
        stream.set_write_timeout(Some(self.timeout))?;
        stream.set_nodelay(true)?;
        Ok(Connection { stream: BufReader::new(stream) })
    }

    /// One request on its own connection.
    ///
    /// # Errors
    /// When there is no connection, or no complete answer in time.
    pub fn try_request(&self, method: &str, target: impl AsRef<[u8]>, body: &[u8]) -> io::Result<Response> {
        self.connect()?.request(method, target.as_ref(), &[("Connection", "close")], body)
    }

    /// As [`Http::try_request`], for requests that must be answered.
    ///
    /// # Panics
    /// When they are not.
    pub fn request(&self, method: &str, target: impl AsRef<[u8]>, body: &[u8]) -> Response {
        let target = target.as_ref();
        self.try_request(method, target, body).unwrap_or_else(|error| {
            panic!("no answer from {} to {method} {}: {error}", self.address, target.escape_ascii())
        })
    }

    /// `GET`, if it is answered.
    ///
    /// # Errors
    /// When there is no connection, or no complete answer in time.
    pub fn try_get(&self, target: impl AsRef<[u8]>) -> io::Result<Response> {
        self.try_request("GET", target, b"")
    }

    /// `GET`, which must be answered.
    pub fn get(&self, target: impl AsRef<[u8]>) -> Response {
        self.request("GET", target, b"")
    }

    /// `PUT`, which must be answered.
    pub fn put(&self, target: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Response {
        self.request("PUT", target, body.as_ref())
    }

    /// `POST`, which must be answered.
    pub fn post(&self, target: impl AsRef<[u8]>, body: impl AsRef<[u8]>) -> Response {
        self.request("POST", target, body.as_ref())
    }

    /// `DELETE`, which must be answered.
    pub fn delete(&self, target: impl AsRef<[u8]>) -> Response {
        self.request("DELETE", target, b"")
    }

    /// A write that must be acknowledged.
    ///
    /// # Panics
    /// When the answer is not 204.
    pub fn must_put(&self, target: impl AsRef<[u8]>, body: impl AsRef<[u8]>) {
        let target = target.as_ref();
        let response = self.put(target, body);
        assert_eq!(response.status, 204, "PUT {} at {}: {}", target.escape_ascii(), self.address, response.text());
    }

    /// A read that must find a value.
    ///
    /// # Panics
    /// When the answer is not 200.
    pub fn must_get(&self, target: impl AsRef<[u8]>) -> Vec<u8> {
        let target = target.as_ref();
        let response = self.get(target);
        assert_eq!(response.status, 200, "GET {} at {}: {}", target.escape_ascii(), self.address, response.text());
        response.body
    }
}

/// One connection, used for one request after the other.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Sends a request and reads its answer. `Content-Length` is added; `headers` are sent as they are.
    ///
    /// # Errors
    /// When the connection fails or no complete answer comes in time.
    pub fn request(
        &mut self,
        method: &str,
        target: &[u8],
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Response> {
        let mut request = Vec::with_capacity(body.len() + 128);
        request.extend_from_slice(method.as_bytes());
        request.push(b' ');
        request.extend_from_slice(target);
        request.extend_from_slice(b" HTTP/1.1\r\nHost: test\r\n");
        for (name, value) in headers {
            request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            request.extend_from_slice(format!("Content-Length: {}\r\n", body.len()).as_bytes());
        }
        request.extend_from_slice(b"\r\n");
        request.extend_from_slice(body);
        self.exchange(&request, method == "HEAD")
    }

    /// Sends these bytes, whatever they are, and reads an answer. `bodyless` says that the answer has no body
    /// although its headers may announce one.
    ///
    /// # Errors
    /// When the connection fails or no complete answer comes in time.
    pub fn exchange(&mut self, bytes: &[u8], bodyless: bool) -> io::Result<Response> {
        let sent = self.stream.get_mut().write_all(bytes);
        // A server may answer and close before it has read everything: its answer counts, not our broken pipe.
        match self.read_response(bodyless) {
            Ok(response) => Ok(response),
            Err(error) => Err(sent.err().unwrap_or(error)),
        }
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        // An answer's line is short; the limit keeps a broken server from filling our memory.
        Read::take(&mut self.stream, 64 * 1024).read_until(b'\n', &mut line)?;
        if line.pop() != Some(b'\n') {
            return Err(invalid("the connection ended within a line"));
        }
        Ok(String::from_utf8_lossy(&line).trim_end_matches('\r').to_string())
    }

    fn read_response(&mut self, bodyless: bool) -> io::Result<Response> {
        let status_line = self.read_line()?;
        let status: u16 = status_line
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3))
            .and_then(|code| code.parse().ok())
            .ok_or_else(|| invalid(&format!("not a status line: {status_line:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.read_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| invalid(&format!("not a header: {line:?}")))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_string()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if !(bodyless || status == 204 || status == 304) {
            response.body = self.read_body(&response)?;
        }
        Ok(response)
    }

    fn read_body(&mut self, response: &Response) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        if response.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            loop {
                let line = self.read_line()?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| invalid("not a chunk size"))?;
                self.read_exactly(size, &mut body)?;
                self.read_line()?;
                if size == 0 {
                    return Ok(body);
                }
            }
        }
        match response.header("content-length") {
            Some(length) => {
                let length = length.parse().map_err(|_| invalid("not a length"))?;
                self.read_exactly(length, &mut body)?;
            }
            None => {
                self.stream.read_to_end(&mut body)?;
            }
        }
        Ok(body)
    }

    fn read_exactly(&mut self, count: usize, into: &mut Vec<u8>) -> io::Result<()> {
        let read = Read::take(&mut self.stream, count as u64).read_to_end(into)?;
        if read < count {
            return Err(invalid("the connection ended within a body"));
        }
        Ok(())
    }
}

fn invalid(message: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.to_string())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// What the client makes of these bytes as an answer to a GET.
    fn answer(bytes: &'static [u8]) -> io::Result<Response> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let http = Http::new(listener.local_addr()?.port());
        let server = std::thread::spawn(move || -> io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut request = [0; 1024];
            let read = stream.read(&mut request)?;
            assert!(request[..read].starts_with(b"GET /x HTTP/1.1\r\n"));
            stream.write_all(bytes)
        });
        let answer = http.try_get("/x");
        server.join().expect("the server does not panic")?;
        answer
    }

    #[test]
    fn bodies_of_each_framing_are_read() {
        let sized = answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef").expect("an answer");
        assert_eq!((sized.status, sized.text()), (200, "abc".to_string()));
        let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n";
        assert_eq!(answer(chunked).expect("an answer").text(), "abc");
        assert_eq!(answer(b"HTTP/1.1 404 No\r\n\r\nto the end").expect("an answer").text(), "to the end");
        assert_eq!(
            answer(b"HTTP/1.1 204 No\r\nAllow: GET\r\nallow: PUT\r\n\r\n").expect("an answer").header("allow"),
            Some("GET, PUT".to_string())
        );
    }

    #[test]
    fn an_answer_that_is_cut_short_is_an_error() {
        for bytes in [&b""[..], b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", b"nonsense\r\n\r\n"]
        {
            assert!(answer(bytes).is_err(), "{}", bytes.escape_ascii());
        }
    }
}
