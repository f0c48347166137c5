//! A question of the API server and its answer, as JSON over HTTP. What the answer is, is decided elsewhere.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use kube::api::DynamicObject;
use kube::core::admission::{AdmissionRequest, AdmissionResponse, AdmissionReview};

use super::judge::{Judge, Kind};
use crate::bounded::bounded;
use crate::metrics::Metrics;
use crate::verdict::Verdict;

/// An answer comes within this, so that it comes before the API server has stopped to wait.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// The longest text of a warning, in bytes; the API server cuts at 4 KiB of all.
const LONGEST_WARNING: usize = 1024;

/// The longest text of a refusal.
const LONGEST_REFUSAL: usize = 8 * 1024;

/// What answers.
pub(super) struct Answering {
    pub(super) judge: Judge,
    pub(super) metrics: Metrics,
}

/// Answers one question.
pub(super) async fn answer(State(answering): State<Arc<Answering>>, question: Bytes) -> Response {
    let review = serde_json::from_slice::<AdmissionReview<DynamicObject>>(&question);
    let request: Option<AdmissionRequest<DynamicObject>> =
        review.ok().and_then(|review| review.try_into().ok());
    drop(question);
    let Some(request) = request else {
        return (StatusCode::BAD_REQUEST, "this is no AdmissionReview with a request\n")
            .into_response();
    };
    let response = answering.response(&request).await;
    match serde_json::to_vec(&response.into_review()) {
        Ok(text) => ([(header::CONTENT_TYPE, "application/json")], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

impl Answering {
    async fn response(&self, request: &AdmissionRequest<DynamicObject>) -> AdmissionResponse {
        let mut response = AdmissionResponse::from(request);
        let Some(kind) = Kind::of(request) else {
            self.count("other", "allowed");
            return response;
        };
        let judged = tokio::time::timeout(ANSWER_WITHIN, self.judge.judge(kind, request)).await;
        let problem = match judged {
            Ok(Ok(verdict)) => {
                self.count(kind.name(), outcome(&verdict));
                log(kind, request, &verdict);
                return with(response, verdict);
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer to what it depends on within {ANSWER_WITHIN:?}"),
        };
        tracing::warn!(kind = kind.name(), name = request.name, problem, "not judged");
        self.count(kind.name(), "unjudged");
        let problem = format!("not checked by Longshore: {problem}");
        response.warnings = Some(vec![bounded(&problem, LONGEST_WARNING)]);
        response
    }

    fn count(&self, kind: &str, outcome: &str) {
        self.metrics.admission_requests.with_label_values(&[kind, outcome]).inc();
    }
}

fn outcome(verdict: &Verdict) -> &'static str {
    match (verdict.refusals.is_empty(), verdict.warnings.is_empty()) {
        (false, _) => "refused",
        (true, false) => "warned",
        (true, true) => "allowed",
    }
}

fn log(kind: Kind, request: &AdmissionRequest<DynamicObject>, verdict: &Verdict) {
    if !verdict.refusals.is_empty() {
        tracing::info!(
            kind = kind.name(),
            namespace = request.namespace,
            name = request.name,
            user = request.user_info.username,
            reasons = verdict.refusals.join("; "),
            "refused"
        );
    }
}

fn with(mut response: AdmissionResponse, verdict: Verdict) -> AdmissionResponse {
    let warnings = verdict.warnings.iter().map(|text| bounded(text, LONGEST_WARNING));
    let warnings: Vec<String> = warnings.collect();
    response.warnings = (!warnings.is_empty()).then_some(warnings);
    if !verdict.refusals.is_empty() {
        response = response.deny(bounded(&verdict.refusals.join("; "), LONGEST_REFUSAL));
        response.result.code = StatusCode::FORBIDDEN.as_u16();
        response.result.reason = "Forbidden".to_owned();
    }
    response
}
