"""Every limit in one place, named ``<thing>_<UNIT>_MAX`` (or what it is), with where its figure comes from."""

from __future__ import annotations

from typing import Final

# Runtime: what one function process takes.
BODY_BYTES_MAX: Final = 32 * 2**20  # a request's body; Triton itself stops at 64 MiB from 25.06
HEADER_BYTES_MAX: Final = 64 * 2**10  # all headers of one request
CONCURRENCY_MAX: Final = 1_000  # what a function may ask for; Knative's own upper bound
CONCURRENCY_DEFAULT: Final = 16  # requests in the handler at once
QUEUE_FACTOR: Final = 4  # requests waiting for a slot, as a multiple of the concurrency
TIMEOUT_SECONDS_DEFAULT: Final = 60.0  # a request's deadline; Knative's drain needs 31 s and more
TIMEOUT_SECONDS_MAX: Final = 600.0
KEEP_ALIVE_SECONDS: Final = 100  # queue-proxy keeps idle connections 90 s: ours must live longer
THREADS_DEFAULT: Final = 8  # threads for synchronous handlers
HANDLERS_PER_FUNCTION_MAX: Final = 100  # in one file
THREADS_MAX: Final = 256  # more wait for each other's interpreter lock
BODY_BYTES_CEILING: Final = 1 * 2**30  # what SHOAL_BODY_BYTES_MAX may say: bodies are held in memory
HEADER_SECONDS_MAX: Final = 20.0  # from a request's first byte to its last header
DISCARD_BYTES_MAX: Final = 64 * 2**20  # of a body too large, read and dropped so that its sender reads the answer
DISCARD_SECONDS_MAX: Final = 5.0  # the same, in time
CALLER_REQUEST_ID_CHARS_MAX: Final = 128  # of a caller's x-request-id; a longer one is replaced
RETRY_AFTER_SECONDS: Final = 1.0  # told to a caller that was refused for load
WATCH_TICK_SECONDS: Final = 0.01  # between two looks at the requests in flight: how late a deadline may be noticed
WATCH_AFTER_SECONDS: Final = 0.05  # a request older than this is watched for its caller hanging up
CANCEL_GRACE_SECONDS: Final = 0.02  # a handler gets this to end after its deadline; then its caller is answered
MODEL_REFRESH_SECONDS: Final = 5.0  # between two looks at a model that is ready
MODEL_RETRY_SECONDS_MIN: Final = 0.1  # the same while it is not, doubling
MODEL_RETRY_SECONDS_MAX: Final = 2.0
MODEL_LOOK_SECONDS_MAX: Final = 10.0  # one look
DRAIN_SETTLE_SECONDS: Final = 0.05  # connections made just before the end are still accepted
DRAIN_MARGIN_SECONDS: Final = 2.0  # past the longest deadline, for answers on their way out
STOP_HOOKS_SECONDS_MAX: Final = 10.0  # all stop hooks together
LOG_FLUSH_SECONDS: Final = 0.1  # a log line waits at most this before it is written
REPORTS_KEPT_MAX: Final = 256  # finished requests not counted and logged yet
LOG_BUFFER_BYTES_MAX: Final = 8 * 2**20  # lines kept while nobody reads them; then they are dropped and counted
LOG_FLUSH_BYTES: Final = 64 * 2**10  # written at once past this
BACKLOG_CONNECTIONS_MAX: Final = 2048  # waiting to be accepted
ROUTES_KEPT_MAX: Final = 1_000  # method and path pairs whose handler is remembered
HANDLER_SERIES_MAX: Final = 100  # handlers with counters of their own

# CloudEvents.
EVENT_BYTES_MAX: Final = 1 * 2**20  # one event in a broker; the specification asks for 64 KiB at least
EVENT_BATCH_MAX: Final = 100  # events in one batch
EVENT_ATTRIBUTE_BYTES_MAX: Final = 4 * 2**10  # one context attribute
EVENT_EXTENSIONS_MAX: Final = 64  # extension attributes of one event

# Pool client.
POOL_CONNECTIONS_MAX: Final = 32  # to one replica, from one process
POOL_RESPONSE_BYTES_MAX: Final = 256 * 2**20  # one inference answer
POOL_HEADER_BYTES_MAX: Final = 64 * 2**10  # one answer's headers
POOL_CONNECT_SECONDS_MAX: Final = 5.0
POOL_BUDGET_SECONDS_MIN: Final = 0.010  # below this a call is refused here: short deadlines crash Triton 2.51
POOL_MARGIN_SECONDS: Final = 0.005  # Triton's queue gives up this much before the caller does
POOL_JSON_BYTES_MAX: Final = 1 * 2**20  # the JSON part of an answer; tensors travel beside it
POOL_JOIN_BYTES_MAX: Final = 64 * 2**10  # up to here one copy and one write are cheaper than a vectored write
POOL_WAITERS_MAX: Final = 1_024  # calls waiting for a connection to one replica
POOL_RETRY_RATIO: Final = 0.1  # retries per request, over the whole process
POOL_RETRY_BURST_MAX: Final = 10.0  # retries saved up while nothing fails
POOL_COOLDOWN_SECONDS: Final = 1.0  # a replica that refused, or lacks the model, is passed over this long
CONTROL_LOAD_SECONDS_MAX: Final = 600.0  # a load is synchronous: all instances and their warm-up
CONTROL_CALL_SECONDS_MAX: Final = 10.0  # any other control call
TENSOR_RANK_MAX: Final = 32  # dimensions of one tensor
TENSOR_EMPTY_ROWS_MAX: Final = 2**20  # rows of a tensor without elements: each still is a list in Python
TENSOR_CALLS_CACHED_MAX: Final = 128  # request headers kept per model, one for each combination of shapes
REQUEST_ID_CHARS_MAX: Final = 256  # Triton repeats the id in its log and its errors
ERROR_TEXT_CHARS_MAX: Final = 400  # of a replica's own error text that reaches a caller
MODELS_PER_FUNCTION_MAX: Final = 16

# Local platform.
FUNCTIONS_MAX: Final = 200
INSTANCES_PER_REVISION_MAX: Final = 20
ACTIVATION_SECONDS_MAX: Final = 60.0  # how long a first request is held while its function starts
GATEWAY_HELD_REQUESTS_MAX: Final = 1_000  # requests held for functions at zero
DELIVERY_ATTEMPTS_MAX: Final = 20
EVENT_HOPS_MAX: Final = 255  # replies of replies before an event is taken for a loop (Knative's default TTL)

# Pool: one Triton server and its models.
INSTALL_SECONDS_MAX: Final = 900.0  # one installation from the package index, on a slow line
TRITON_START_SECONDS_MAX: Final = 120.0  # from start to ready: 1 s on a free machine
TRITON_STOP_SECONDS_MAX: Final = 10.0  # then killed; a dead stub makes Triton wait without need
TRITON_ANSWER_SECONDS_MAX: Final = 5.0  # one look at its health
TRITON_SILENCES_MAX: Final = 6  # looks without an answer before it is taken for hung and killed
TRITON_UNLOAD_SECONDS_MAX: Final = 60.0  # until a model that is unloaded is gone from the index
POOL_WATCH_SECONDS: Final = 0.2  # between two looks at the server's process and its stubs
POOL_RESTART_SECONDS_MIN: Final = 0.1  # before a server that died is started again, doubling
POOL_RESTART_SECONDS_MAX: Final = 10.0
POOL_STEADY_SECONDS: Final = 30.0  # up this long: the next death counts as the first
POOL_LOADS_MAX: Final = 4  # models loading at once; Triton's own default
POOL_MODELS_MAX: Final = 200  # models one pool may be asked to hold
MODEL_FILES_MAX: Final = 1_000  # files of one model version
MODEL_CONFIG_BYTES_MAX: Final = 1 * 2**20  # one config.pbtxt

# Pool on a cluster: the agent in each pod.
LEASES_BYTES_MAX: Final = 1 * 2**20  # one object's data; Kubernetes takes no more
WATCH_SECONDS_MAX: Final = 300.0  # one watch of the Kubernetes API; then a new one from where it ended
WATCH_SILENCE_SECONDS_MAX: Final = 330.0  # without a line on a watch: the connection is taken for dead
API_CALL_SECONDS_MAX: Final = 15.0  # any other call of the Kubernetes API
API_RETRY_SECONDS_MIN: Final = 0.5  # after the Kubernetes API failed, doubling
API_RETRY_SECONDS_MAX: Final = 30.0
STATUS_TICK_SECONDS: Final = 0.5  # between two looks at whether there is something new to report
STATUS_REASON_CHARS_MAX: Final = 500  # of a model's reason: all pods' reports share one object
LEASE_RETRY_SECONDS_MIN: Final = 5.0  # before models that FAILED are tried again, doubling
LEASE_RETRY_SECONDS_MAX: Final = 300.0
MODEL_BYTES_MAX: Final = 64 * 2**30  # all files of one model version
MODEL_MANIFEST_BYTES_MAX: Final = 4 * 2**20  # a registry's own limit for one manifest
MODEL_PULL_SECONDS_MAX: Final = 1_800.0  # one file from the registry
MODEL_PULL_SILENCE_SECONDS_MAX: Final = 60.0  # without a byte of it
INSTALL_READY_SECONDS_MAX: Final = 300.0  # the pool's pods from applied to ready: on a new node, images are large
INSTALL_LOOK_SECONDS: Final = 0.5  # between two looks at them
MODELS_KEPT_MAX: Final = 8  # versions that no lease names any more and whose files stay, for a quick way back

# Specification files: written by hand, so anything larger is a mistake.
SPEC_BYTES_MAX: Final = 64 * 2**10  # one function.yaml
SPEC_DEPTH_MAX: Final = 12  # nested lists and mappings
SPEC_NODES_MAX: Final = 2_000  # values, each alias counted as what it stands for
SPEC_MISTAKES_MAX: Final = 20  # told at once
ENV_VARIABLES_MAX: Final = 100
ENV_SOURCES_MAX: Final = 20  # ConfigMaps and Secrets of one function
ENV_VALUE_BYTES_MAX: Final = 32 * 2**10  # Linux takes 128 KiB for one
TRIGGERS_PER_FUNCTION_MAX: Final = 20
FILTER_ATTRIBUTES_MAX: Final = 10
REQUIREMENTS_BYTES_MAX: Final = 1 * 2**20  # one requirements.txt; a hash for each platform's wheel takes its room
REQUIREMENTS_MAX: Final = 500  # packages in one
WINDOW_SECONDS_MIN: Final = 1.0  # idle time before zero; Knative itself takes 6 s at least
WINDOW_SECONDS_MAX: Final = 3600.0
BROKER_DELIVERIES_MAX: Final = 256  # under way for all triggers together

# Gateway.
GATEWAY_CONNECTIONS_MAX: Final = 2_000  # open at once from callers; each may need one more to an instance
GATEWAY_FIELD_BYTES_MAX: Final = 16 * 2**10  # one header field, or the request line
GATEWAY_FIELDS_MAX: Final = 128  # header fields of one request
GATEWAY_BUFFER_BYTES_MAX: Final = 64 * 2**10  # a body up to this is read whole, a larger one is streamed
GATEWAY_IDLE_SECONDS_MAX: Final = 75.0  # a connection without a complete request head
GATEWAY_POOL_IDLE_SECONDS_MAX: Final = 60.0  # an idle connection to an instance; well below KEEP_ALIVE_SECONDS
GATEWAY_CONNECT_SECONDS_MAX: Final = 5.0  # to an instance on the same machine
GATEWAY_CONNECT_ATTEMPTS_MAX: Final = 3  # instances tried for one request while none took the connection
GATEWAY_MARGIN_SECONDS: Final = 1.0  # past a function's own timeout, so that its own answer comes first
GATEWAY_DRAIN_SECONDS_MAX: Final = 30.0  # what requests in flight get at SIGTERM
GATEWAY_RECENT_MAX: Final = 200  # requests the page shows
GATEWAY_PAST_REVISIONS_MAX: Final = 1_000  # revisions without a route whose requests stay counted
PAGE_READ_SECONDS_MAX: Final = 2.0  # for another process's part of the page
PAGE_TEXT_CHARS_MAX: Final = 500  # one field of a dead letter on the page
GATEWAY_NAMES_SHOWN_MAX: Final = 20  # functions named in a 404

# Broker.
BROKER_CONNECTIONS_MAX: Final = 500
BROKER_WRITES_QUEUED_MAX: Final = 2_000  # store operations waiting for the writer thread
BROKER_GROUP_MAX: Final = 500  # operations in one commit
BROKER_BYTES_MAX: Final = 1 * 2**30  # the database file
BROKER_BUSY_SECONDS_MAX: Final = 2.0  # waiting for another process's lock on the database
BROKER_EVENTS_KEPT_MAX: Final = 10_000  # finished events kept
BROKER_KEPT_SECONDS_MAX: Final = 24 * 3600.0  # a finished event is kept
BROKER_DEAD_KEPT_MAX: Final = 10_000  # dead letters kept; the oldest go first
BROKER_DEAD_KEPT_SECONDS_MAX: Final = 7 * 24 * 3600.0
BROKER_PRUNE_SECONDS: Final = 10.0  # between two sweeps of the retention rules
BROKER_PRUNE_ROWS_MAX: Final = 1_000  # rows removed in one transaction
BROKER_DRAIN_SECONDS_MAX: Final = 5.0  # at SIGTERM; what is cut is delivered again by the next process
BROKER_LISTED_MAX: Final = 200  # dead letters in one answer
BROKER_REASON_CHARS_MAX: Final = 500  # of an answer, kept with a dead letter
TRIGGERS_MAX: Final = 500
TRIGGER_CONCURRENCY_MAX: Final = 16  # deliveries under way for one trigger
BACKOFF_SECONDS_MAX: Final = 600.0  # between two attempts
RETRY_AFTER_SECONDS_MAX: Final = 600.0  # of a subscriber's Retry-After that is honoured
REVISIONS_KEPT_MAX: Final = 20  # per function, besides those in traffic, tagged or in its recent history
REVISIONS_LEASED: Final = 3  # newest revisions of a function whose models stay loaded, for a quick way back
TRAFFIC_HISTORY_MAX: Final = 100  # splits remembered per function
LOG_BYTES_MAX: Final = 16 * 2**20  # one log file; as much again is kept of what came before
LISTEN_BACKLOG: Final = 1_024  # connections waiting while a process restarts
SOURCE_BYTES_MAX: Final = 256 * 2**20  # a function folder: code, not data
SOURCE_FILES_MAX: Final = 10_000
CONTROL_BODY_BYTES_MAX: Final = 16 * 2**20  # one message of the platform's processes: FUNCTIONS_MAX specifications
INVOKE_ANSWER_BYTES_MAX: Final = 256 * 2**20  # a function's answer to the command line, which holds it in memory
DEPLOY_SILENCE_SECONDS_MAX: Final = 3600.0  # between two lines about a deployment: several installations
PART_STOP_SECONDS_MAX: Final = GATEWAY_DRAIN_SECONDS_MAX + 10.0  # a part of the platform ends, then is killed
NODE_STOP_SECONDS_MAX: Final = 4 * PART_STOP_SECONDS_MAX  # broker, gateway, pool and the instances, in turn
NODE_READ_SECONDS_MAX: Final = 10.0  # the command line asks the node what it knows; changes may load models
CHANGE_SECONDS_MAX: Final = 900.0  # a change of a split may have to load a model, a removal waits for requests
CONTROL_SECONDS_MAX: Final = 30.0  # one call between the platform's processes, loading models apart
MODEL_LOAD_SECONDS_MAX: Final = 600.0  # the pool's first start prepares an environment
READY_SECONDS_MAX: Final = 60.0  # a function instance from its start to its first answer
LIVE_SECONDS: Final = 5.0  # between two looks whether an instance answers, and for one such answer
LIVE_SILENCES_MAX: Final = 3  # looks in a row without an answer before it is killed; Kubernetes' failureThreshold
DESCRIBE_SECONDS_MAX: Final = 60.0  # importing a handler to see what it declares

# Images.
IMAGE_LAYERS_MAX: Final = 100  # overlayfs takes 128 with what the runtime adds
IMAGE_FILES_MAX: Final = 500_000  # in all layers of one image
IMAGE_UNPACKED_BYTES_MAX: Final = 16 * 2**30  # in all layers of one image: CUDA bases have 8 GiB
IMAGE_NAME_BYTES_MAX: Final = 4_000  # one path in a layer; Linux takes 4096
MANIFEST_BYTES_MAX: Final = 4 * 2**20  # one manifest or configuration, as registries limit them
COMPILE_SECONDS_MAX: Final = 300.0  # bytecode of one layer
APT_SECONDS_MAX: Final = 300.0  # one download of packages for a base
REGISTRY_SILENCE_SECONDS_MAX: Final = 60.0  # between two pieces of an answer
REGISTRY_ATTEMPTS_MAX: Final = 4  # at one request, while the registry fails or is away
REGISTRY_BACKOFF_SECONDS_MIN: Final = 0.2  # before the second attempt, doubling
REGISTRY_REDIRECTS_MAX: Final = 3
REGISTRY_ANSWER_BYTES_MAX: Final = 4 * 2**20  # any answer but a blob
CREDENTIAL_SECONDS_MAX: Final = 20.0  # one call of a credential helper

# Cluster.
CLUSTER_CONNECT_SECONDS_MAX: Final = 5.0  # to the API server
CLUSTER_CALL_SECONDS_MAX: Final = 30.0  # one call to it, a watch or a log apart
CLUSTER_ANSWER_BYTES_MAX: Final = 64 * 2**20  # one answer of it
CLUSTER_PAGE: Final = 500  # objects in one page of a list
CLUSTER_OBJECTS_MAX: Final = 20_000  # objects of one list
CLUSTER_RESYNC_SECONDS: Final = 1.0  # a watch is given up for a fresh look after this long
CLUSTER_ROUTE_SECONDS_MAX: Final = 60.0  # a split from its writing to being in effect at the gateway
CLUSTER_READY_SECONDS_MAX: Final = 180.0  # a revision from its creation to ready, when nothing says it will not be
CLUSTER_DELETE_SECONDS_MAX: Final = 120.0  # until what a function consists of is gone, draining pods apart
CLUSTER_VERDICT_SECONDS: Final = 45.0  # a container that runs and is not ready by then is given up
CLUSTER_SCHEDULE_SECONDS_MAX: Final = 20.0  # a pod no node takes: what ends meanwhile makes room
CLUSTER_EVENTS_MAX: Final = 200  # events read for one verdict
CLUSTER_LOG_LINES_MAX: Final = 20  # of a container that died, read for the reason
CLUSTER_FOLLOWED_PODS_MAX: Final = 50  # whose logs are followed at once
CLUSTER_TIMEOUT_SECONDS_MIN: Final = 60  # of a revision: Knative's own drain takes 30 s of it
CLUSTER_WINDOW_SECONDS_MIN: Final = 6.0  # Knative's lower bound for the autoscaler's window
CLUSTER_LOG_QUEUE_MAX: Final = 1_000  # lines read and not yet asked for
CLUSTER_PUBLISH_SECONDS_MAX: Final = 300.0  # a broker on an in-memory channel answers after all its subscribers
CLUSTER_HISTORY_MAX: Final = 20  # splits remembered in an annotation of at most 256 KiB
