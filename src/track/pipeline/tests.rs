//! Tests of the queue, against a server that answers as PostgreSQL does.

use proptest::prelude::*;

use super::*;

fn ask(pipeline: &mut Pipeline, requests: &[Request]) {
    for &request in requests {
        pipeline.request(request, ResponseAction::Forward);
    }
}

#[test]
fn an_error_is_cut_to_the_next_sync_for_extended_requests_only() {
    use Request::{Bind, Execute, Parse, Query, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Query, Execute, Sync, Query]);
    p.response(backend::ERROR);
    assert!(!p.settled());
    p.ready(IDLE);
    assert!(!p.settled(), "the query after the Sync is still owed");
    p.response(backend::ERROR);
    p.ready(IDLE);
    assert!(p.settled());
}

#[test]
fn an_error_without_a_sync_swallows_what_comes_until_one() {
    use Request::{Execute, Parse, Query, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse]);
    p.response(backend::ERROR);
    assert!(!p.answered());
    ask(&mut p, &[Query, Execute]);
    assert!(!p.answered());
    ask(&mut p, &[Sync]);
    p.ready(IDLE);
    assert!(p.settled());
}

#[test]
fn a_transaction_that_a_sync_leaves_open_is_not_over() {
    use Request::{Bind, Close, Execute, Parse, Query, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Execute, Query, Close, Sync]);
    for tag in [backend::PARSE_COMPLETE, backend::BIND_COMPLETE, backend::COMMAND_COMPLETE, backend::COMMAND_COMPLETE] {
        p.response(tag);
    }
    p.ready(b'T');
    p.response(backend::CLOSE_COMPLETE);
    p.ready(IDLE);
    assert!(p.answered() && !p.settled(), "the next command fails");
    ask(&mut p, &[Query]);
    p.response(backend::ERROR);
    p.ready(IDLE);
    assert!(p.settled());
    ask(&mut p, &[Query, Execute, Sync]);
    p.ready(b'T');
    p.response(backend::COMMAND_COMPLETE);
    p.ready(IDLE);
    assert!(p.settled(), "that was the end of the transaction");
}

#[test]
fn without_a_sync_a_transaction_is_open() {
    use Request::{Bind, Execute, Flush, Parse, Query, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Execute, Flush]);
    for tag in [backend::PARSE_COMPLETE, backend::BIND_COMPLETE, backend::COMMAND_COMPLETE] {
        p.response(tag);
    }
    assert!(p.answered() && !p.settled() && p.unsynced());
    ask(&mut p, &[Sync]);
    p.ready(IDLE);
    assert!(p.settled());
    ask(&mut p, &[Parse, Query, Parse]);
    p.response(backend::PARSE_COMPLETE);
    p.response(backend::COMMAND_COMPLETE);
    p.ready(IDLE);
    p.response(backend::PARSE_COMPLETE);
    assert!(p.answered() && !p.settled(), "the second is open still");
    ask(&mut p, &[Query]);
    p.ready(IDLE);
    assert!(p.settled(), "a simple query ends it as well");
}

#[test]
fn an_error_in_the_commit_of_a_sync_cuts_nothing() {
    let mut p = Pipeline::new();
    ask(&mut p, &[Request::Execute, Request::Sync, Request::Parse, Request::Sync]);
    p.response(backend::COMMAND_COMPLETE);
    p.response(backend::ERROR);
    p.ready(IDLE);
    p.response(backend::PARSE_COMPLETE);
    p.ready(IDLE);
    assert!(p.settled());
}

#[test]
fn syncs_are_ignored_during_a_copy() {
    use Request::{Bind, CopyData, CopyEnd, Execute, Parse, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Execute, Sync]);
    p.response(backend::PARSE_COMPLETE);
    p.response(backend::BIND_COMPLETE);
    p.response(backend::COPY_IN);
    assert!(p.copying_in());
    ask(&mut p, &[CopyData, Sync, CopyEnd, Sync]);
    p.response(backend::COMMAND_COMPLETE);
    assert!(!p.settled());
    p.ready(IDLE);
    assert!(p.settled());
}

#[test]
fn a_message_out_of_place_in_a_copy_is_discarded_with_all_up_to_a_sync() {
    use Request::{Bind, CopyData, Execute, Parse, Query, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Execute]);
    for tag in [backend::PARSE_COMPLETE, backend::BIND_COMPLETE, backend::COPY_IN] {
        p.response(tag);
    }
    ask(&mut p, &[CopyData, Parse, Execute, Sync, Query]);
    p.response(backend::ERROR);
    p.ready(IDLE);
    assert!(!p.settled(), "the query behind the Sync is still owed");
    p.response(backend::COMMAND_COMPLETE);
    p.ready(IDLE);
    assert!(p.settled());

    ask(&mut p, &[Parse, Bind, Execute, Parse, Execute, Sync]);
    for tag in [backend::PARSE_COMPLETE, backend::BIND_COMPLETE, backend::COPY_IN] {
        p.response(tag);
    }
    p.response(backend::ERROR);
    p.ready(IDLE);
    assert!(p.settled());

    ask(&mut p, &[Query]);
    p.response(backend::COPY_IN);
    ask(&mut p, &[CopyData, Parse]);
    assert!(p.lost(), "whether the copy or the server reads it is not known");
}

#[test]
fn copy_data_sent_ahead_of_the_copy_response() {
    use Request::{CopyData, CopyEnd, Query};
    let mut p = Pipeline::new();
    ask(&mut p, &[Query, CopyData, CopyEnd, Query]);
    p.response(backend::COPY_IN);
    assert!(!p.copying_in());
    p.response(backend::COMMAND_COMPLETE);
    p.ready(IDLE);
    assert!(!p.settled());
    p.response(backend::COMMAND_COMPLETE);
    p.ready(IDLE);
    assert!(p.settled());
}

#[test]
fn a_failed_copy_with_an_ambiguous_sync_is_never_settled() {
    use Request::{Bind, CopyEnd, Execute, Parse, Sync};
    let mut p = Pipeline::new();
    ask(&mut p, &[Parse, Bind, Execute, Sync]);
    p.response(backend::PARSE_COMPLETE);
    p.response(backend::BIND_COMPLETE);
    p.response(backend::COPY_IN);
    p.response(backend::ERROR);
    ask(&mut p, &[CopyEnd, Sync]);
    p.ready(IDLE);
    p.ready(IDLE);
    assert!(!p.settled() && p.lost());
}

#[test]
fn late_copy_messages_owe_nothing() {
    use Request::{CopyData, CopyEnd, Query};
    let mut p = Pipeline::new();
    ask(&mut p, &[Query]);
    p.response(backend::COPY_IN);
    p.response(backend::ERROR);
    ask(&mut p, &[CopyData, CopyEnd]);
    p.ready(IDLE);
    assert!(p.settled());
    ask(&mut p, &[CopyData, CopyEnd]);
    assert!(p.settled());
}

#[test]
fn hidden_answers_are_told_apart() {
    let mut p = Pipeline::new();
    p.request(Request::Query, ResponseAction::Swallow);
    p.request(Request::Query, ResponseAction::Forward);
    assert!(p.hides(backend::COMMAND_COMPLETE));
    assert_eq!(p.response(backend::COMMAND_COMPLETE), ResponseAction::Swallow);
    assert_eq!(p.ready(IDLE), ResponseAction::Swallow);
    assert!(!p.hides(backend::COMMAND_COMPLETE));
    assert_eq!(p.response(backend::COMMAND_COMPLETE), ResponseAction::Forward);
    assert_eq!(p.ready(b'T'), ResponseAction::Forward);
    assert!(p.answered() && !p.settled());
}

#[test]
fn a_query_behind_a_failure_of_ours_is_not_the_clients_to_lose() {
    for (between, lost) in [(None, true), (Some(Request::Parse), false), (Some(Request::Flush), true)] {
        for query in [Request::Query, Request::Function] {
            let mut p = Pipeline::new();
            ask(&mut p, &[Request::Execute]);
            p.request(Request::Parse, ResponseAction::ForwardErrorOnly);
            p.request(Request::Bind, ResponseAction::ForwardErrorOnly);
            p.response(backend::COMMAND_COMPLETE);
            assert_eq!(p.response(backend::ERROR), ResponseAction::Forward);
            if let Some(request) = between {
                ask(&mut p, &[request]);
            }
            assert_eq!(p.would_discard(query), lost);
            assert!(!p.would_discard(Request::Sync) && p.skipping());
        }
    }
    let mut p = Pipeline::new();
    ask(&mut p, &[Request::Execute]);
    p.response(backend::ERROR);
    assert!(!p.would_discard(Request::Query), "the client's own request failed");
}

/// A server that reads the whole list of requests in order, as PostgreSQL does: the model that the queue is
/// held against. `fails` says for each request whether working on it fails.
fn serve(requests: &[(Request, bool)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut skip = false;
    for &(request, fails) in requests {
        if request == Request::Sync {
            skip = false;
            if fails {
                out.push(backend::ERROR);
            }
            out.push(backend::READY);
            continue;
        }
        if skip {
            continue;
        }
        match request {
            Request::Query | Request::Function => {
                if request == Request::Query {
                    out.push(backend::ROW_DESCRIPTION);
                }
                out.push(if fails { backend::ERROR } else { backend::COMMAND_COMPLETE });
                out.push(backend::READY);
            }
            Request::Flush | Request::CopyData | Request::CopyEnd => {}
            _ if fails || request == Request::MalformedFlush => {
                out.push(backend::ERROR);
                skip = true;
            }
            Request::Parse => out.push(backend::PARSE_COMPLETE),
            Request::Bind => out.push(backend::BIND_COMPLETE),
            Request::Describe => out.push(backend::NO_DATA),
            Request::Execute => out.push(backend::COMMAND_COMPLETE),
            Request::Close => out.push(backend::CLOSE_COMPLETE),
            Request::Sync | Request::MalformedFlush => {}
        }
    }
    out
}

fn request() -> impl Strategy<Value = Request> {
    use Request::{Bind, Close, CopyData, CopyEnd, Describe, Execute, Flush, Function, Parse, Query, Sync};
    let malformed = Request::MalformedFlush;
    prop::sample::select(vec![
        Query, Function, Parse, Bind, Describe, Execute, Close, Sync, Sync, Flush, malformed, CopyData, CopyEnd,
    ])
}

proptest! {
    /// However requests and answers interleave, the queue is settled exactly when the model has said all.
    #[test]
    fn settled_when_the_model_has_answered_all(
        mut requests in prop::collection::vec((request(), prop::bool::weighted(0.2)), 1..40),
        schedule in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        requests.push((Request::Sync, false));
        let mut p = Pipeline::new();
        let mut sent = 0;
        let mut answered = 0;
        let mut schedule = schedule.into_iter();
        while sent < requests.len() || answered < serve(&requests[..sent]).len() {
            let answers = serve(&requests[..sent]);
            let may_answer = answered < answers.len();
            if sent < requests.len() && (!may_answer || schedule.next().unwrap_or(true)) {
                p.request(requests[sent].0, ResponseAction::Forward);
                sent += 1;
            } else {
                match answers[answered] {
                    backend::READY => p.ready(IDLE),
                    tag => p.response(tag),
                };
                answered += 1;
            }
            prop_assert!(!p.lost());
            let owes = answered < serve(&requests[..sent]).len();
            prop_assert!(!(owes && p.settled()), "settled while the server owes");
        }
        prop_assert!(p.settled());
    }
}

#[test]
fn a_request_of_which_the_server_has_a_part_is_not_owed() {
    use Request::{Bind, CopyData, Execute, Parse, Query};
    let of = |requests: &[Request], half: Request| {
        let mut p = Pipeline::new();
        ask(&mut p, requests);
        p.withdraw(half);
        (p.owed(), p.owed_readies(), p.unsynced())
    };
    assert_eq!(of(&[Query, Bind], Bind), (1, 1, false));
    assert_eq!(of(&[Parse, Bind, Execute, Query], Query), (3, 0, true));
    assert_eq!(of(&[Query], CopyData), (1, 1, false), "none that is answered");
    assert_eq!(of(&[Query], Query), (0, 0, false));
}
