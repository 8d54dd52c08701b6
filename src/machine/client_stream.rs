//! Position of a machine in what the client sends: between two messages, or in one of which the rest is still to come; and whether more
//! comes at all.

use super::End;
use crate::error::ClientError;
use crate::track::Request;
use crate::wire::{StreamPosition, frame};

/// State of the client's half of the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum ClientSide {
    /// More may come.
    #[default]
    Open,
    /// Its stream has ended; what it has sent before is still to be seen to.
    Ending,
    /// It has sent `Terminate`, or all has been seen to.
    Ended,
}

/// Treatment of the rest of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Rest {
    /// It is sent on.
    #[default]
    Forward,
    /// It is dropped.
    Drop,
}

/// Position in the client's stream.
#[derive(Debug, Default)]
pub(super) struct ClientStream {
    position: StreamPosition,
    rest: Rest,
    /// Request that the current message, or the last one, makes; `None` where it is not known or not sent on.
    request: Option<Request>,
    pub(super) client: ClientSide,
    /// Reason why the client's stream has ended, if it is told so.
    violation: Option<ClientError>,
}

impl ClientStream {
    /// Returns whether part of a message has been sent on, and the rest has not come.
    pub(super) fn is_partial(&self) -> bool {
        self.rest == Rest::Forward && !self.position.is_between()
    }

    pub(super) fn is_between(&self) -> bool {
        self.position.is_between()
    }

    /// Returns the request that the server never gets whole: part of it has been sent on, and the rest has not come; or, where bytes for
    /// the server are left that have not been sent (`is_unsent`), the last one, if nothing of pgferry's own can stand behind it.
    pub(super) fn unfinished_request(&self, is_unsent: bool) -> Option<Request> {
        self.request.filter(|request| self.is_partial() || (is_unsent && request.ends_ready()))
    }

    /// Notes that a message was taken but for its last `left` bytes, which are treated as `rest` says.
    pub(super) fn begin_rest(&mut self, rest: Rest, left: usize) {
        (self.rest, self.position, self.request) = (rest, StreamPosition::Body(left), None);
    }

    /// Notes that `request` is sent on, but for the last `left` bytes of its message.
    pub(super) fn begin_request(&mut self, request: Request, left: usize) {
        self.begin_rest(Rest::Forward, left);
        self.request = Some(request);
    }

    /// Takes what `bytes` begin with of the current message, or of a header that begins here. Returns the number of bytes, and how they
    /// are treated.
    pub(super) fn take_rest(&mut self, bytes: &[u8]) -> (usize, Rest) {
        let (taken, read) = self.position.take(bytes, frame::FRONTEND_LIMIT);
        if let Err(bad) = read {
            self.violates(ClientError::violation(bad.to_string()));
        }
        (taken, self.rest)
    }

    /// Notes that the rest of the current message will not come, if the stream has ended.
    pub(super) fn nothing_more(&mut self) {
        if self.client == ClientSide::Ending {
            self.client = ClientSide::Ended;
        }
    }

    /// Notes that the next bytes are no message: all before them is carried out and answered.
    pub(super) fn violates(&mut self, client_error: ClientError) {
        self.client = ClientSide::Ended;
        self.violation = Some(client_error);
    }

    /// Returns whether the client is told why its stream has ended.
    pub(super) fn is_in_violation(&self) -> bool {
        self.violation.is_some()
    }

    /// Returns the machine's end once all has been answered.
    pub(super) fn farewell(&mut self) -> End {
        self.violation.take().map_or(End::ClientTerminated, End::Refuse)
    }

    /// Makes unread again what was taken.
    pub(super) fn put_back(&mut self) {
        self.begin_rest(Rest::Forward, 0);
    }
}
