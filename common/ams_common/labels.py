"""Labels and annotations on Kubernetes objects: those of ours, and Kubernetes' own that two components rely on."""

from typing import Final

MODEL: Final = "aimodelserver.io/model"  # on every child: the name of its ModelDeployment
MANAGED_BY: Final = "app.kubernetes.io/managed-by"
MANAGER: Final = "ams-operator"  # the value of MANAGED_BY, and the field manager of server-side apply
MANAGED_SELECTOR: Final = f"{MANAGED_BY}={MANAGER}"

APPLIED: Final = "aimodelserver.io/applied"  # hash of the object as it was last applied
TEMPLATE: Final = "aimodelserver.io/template"  # on a workload: hash of its pods' template as it was applied
SPEC: Final = "aimodelserver.io/spec"  # on a workload: digest of the part of the spec that its template was made for
RETAINED_BY: Final = "aimodelserver.io/retained-by"  # on a volume without an owner: the resource that may use it
WEIGHTS: Final = "aimodelserver.io/weights"  # on a volume: digest of the source whose verified weights it holds
LOCK: Final = "aimodelserver.io/lock"  # on a volume: the lock of these weights, as status.lock
PULLS_FOR: Final = "aimodelserver.io/pulls-for"  # on a pod that only pulls an image: name of its ModelDeployment
PULLS: Final = "aimodelserver.io/pulls"  # on that pod: the image
GROUP: Final = "aimodelserver.io/group"  # on every pod of a replica over several nodes: name of its ModelDeployment
PREFETCH: Final = "aimodelserver.io/prefetch"  # on a workload whose pod only downloads the weights
KEYS_SECRET: Final = "aimodelserver.io/keys-secret"  # on the gateways' Service: the Secret whose API keys they take

SET_NAME: Final = "leaderworkerset.sigs.k8s.io/name"  # on what a LeaderWorkerSet's controller makes: the set's name
AFTER_START: Final = "leaderworkerset.sigs.k8s.io/experimental-recreate-group-after-start"  # on a set
REVISION: Final = "deployment.kubernetes.io/revision"  # on a ReplicaSet: the number that its Deployment gave it
SERVICE_NAME: Final = "kubernetes.io/service-name"  # on an EndpointSlice: its Service
GPU_MEMORY: Final = "nvidia.com/gpu.memory"  # on a node: MiB of each GPU, by GPU feature discovery
