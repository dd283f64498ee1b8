//! The kinds of problems: their names, and the status that goes with each.

use poem::http::StatusCode;

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $status:ident $name:literal $title:literal,)+) => {
        /// What went wrong, in the kinds that clients can tell apart.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Kind { $($(#[$doc])* $kind,)+ }

        impl Kind {
            /// Every kind.
            pub(crate) const ALL: &[Self] = &[$(Self::$kind),+];

            /// The last part of `type`; never changes.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)+ }
            }

            /// The same for every problem of this kind.
            pub(crate) const fn title(self) -> &'static str {
                match self { $(Self::$kind => $title,)+ }
            }

            pub(crate) const fn status(self) -> StatusCode {
                match self { $(Self::$kind => StatusCode::$status,)+ }
            }
        }
    };
}

kinds! {
    /// The request itself cannot be understood.
    MalformedRequest = BAD_REQUEST "malformed-request" "The request cannot be understood",
    /// The body is not one JSON value.
    MalformedJson = BAD_REQUEST "malformed-json" "The body is not JSON",
    /// A value in the path, the query or a header cannot be parsed.
    InvalidParameter = BAD_REQUEST "invalid-parameter" "A parameter cannot be parsed",
    /// No API key, or one that nobody knows.
    ApiKeyRequired = UNAUTHORIZED "api-key-required" "An API key is required",
    /// A valid key that may not do this.
    Forbidden = FORBIDDEN "forbidden" "The API key may not do this",
    /// The ingest signature is missing, malformed or wrong.
    InvalidSignature = UNAUTHORIZED "invalid-signature" "The signature is missing or wrong",
    /// No such resource, or not this tenant's.
    NotFound = NOT_FOUND "not-found" "There is no such resource",
    /// The path exists, but not with this method.
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed" "The path does not take this method",
    /// The body did not arrive in time.
    RequestTimeout = REQUEST_TIMEOUT "request-timeout" "The body took too long",
    /// Ingest to a disabled subscription.
    SubscriptionDisabled = CONFLICT "subscription-disabled" "The subscription is disabled",
    /// Enabling what is paused.
    SubscriptionPaused = CONFLICT "subscription-paused" "The subscription is paused",
    /// Replaying a delivery whose subscription is gone.
    SubscriptionDeleted = CONFLICT "subscription-deleted" "The subscription was deleted",
    /// The delivery has ended, one way or the other.
    DeliveryFinished = CONFLICT "delivery-finished" "The delivery is finished",
    /// Nobody could do what only an admin may.
    LastAdminKey = CONFLICT "last-admin-key" "The last admin's key stays",
    /// More bytes than the limit.
    PayloadTooLarge = PAYLOAD_TOO_LARGE "payload-too-large" "The body is too large",
    /// Not JSON by its content type, or compressed.
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type" "The body is of another kind",
    /// Asked under a name that a server without keys does not answer to.
    MisdirectedRequest = MISDIRECTED_REQUEST "misdirected-request" "The request names another host",
    /// Well-formed, but a field may not be so.
    InvalidFields = UNPROCESSABLE_ENTITY "invalid-fields" "Some fields are not as they must be",
    /// The idempotency key was used with other bytes.
    KeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused" "The idempotency key belongs to other bytes",
    /// The event comes back to where it was, again and again.
    EventLoop = UNPROCESSABLE_ENTITY "event-loop" "The event goes round in a loop",
    /// The address sent many keys that nobody knows.
    TooManyGuesses = TOO_MANY_REQUESTS "too-many-wrong-keys" "Too many wrong API keys",
    /// The tenant handed in as much as its ingest limit allows.
    QuotaSpent = TOO_MANY_REQUESTS "quota-spent" "More events than the tenant may hand in",
    /// The subscription has as many unfinished deliveries as it may have.
    BacklogFull = TOO_MANY_REQUESTS "backlog-full" "More events than may wait",
    /// The tenant has as many bytes stored as it may have.
    StorageFull = TOO_MANY_REQUESTS "storage-full" "More bytes than the tenant may store",
    /// The tenant called the API as often as its limit allows.
    ControlSpent = TOO_MANY_REQUESTS "control-limit-spent" "More calls than the tenant may make",
    /// The tenant has as many subscriptions as it may have.
    TooManySubscriptions = UNPROCESSABLE_ENTITY "too-many-subscriptions" "More subscriptions than the tenant may have",
    /// The tenant has more under way at once than its share.
    OverShare = TOO_MANY_REQUESTS "over-share" "The tenant has too much under way at once",
    /// A bug of ours.
    Internal = INTERNAL_SERVER_ERROR "internal-error" "Something went wrong on this side",
    /// The database cannot take or tell anything now; nothing was done.
    StoreUnavailable = SERVICE_UNAVAILABLE "store-unavailable" "The store is not available",
    /// A secret that the request needs cannot be read.
    SecretsUnreadable = SERVICE_UNAVAILABLE "secrets-unreadable" "A secret cannot be read",
    /// A part of the server is not ready.
    NotReady = SERVICE_UNAVAILABLE "not-ready" "The server is not ready",
    /// The answer to a commit was lost; it may have been done.
    OutcomeUnknown = SERVICE_UNAVAILABLE "outcome-unknown" "It is not known whether it was stored",
}
