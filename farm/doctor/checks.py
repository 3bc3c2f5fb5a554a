"""The list of all checks. A new one is a function in a module beside this, and a line here."""

from farm.doctor import configuration, gpu, installation, machine, models, ray_cluster, store
from farm.doctor.check import Check

DIGESTS_S = 300.0  # for reading all weights of the models
HUB_S = 30.0
S3_S = 60.0  # a server that does not answer is asked several times
LOADING_S = 90.0  # for a process that loads torch or Ray from a slow disk

CHECKS = (
    Check(configuration.settings),
    Check(configuration.keys),
    Check(installation.python),
    Check(installation.packages),
    Check(installation.ffmpeg),
    Check(installation.traces),
    Check(machine.memory),
    Check(machine.disk),
    Check(machine.shared_memory),
    Check(gpu.gpus, LOADING_S),
    Check(ray_cluster.ray, LOADING_S),
    Check(ray_cluster.token),
    Check(ray_cluster.ports),
    Check(store.store, S3_S),
    Check(store.signed_urls, S3_S),
    Check(store.clock, S3_S),
    Check(models.models, DIGESTS_S),
    Check(models.licences, HUB_S),
)
