"""Runs as jobs of Slurm and of Kubernetes.

    slurm, slurm_ray        the batch script, and what it asks of Python
    kuberay, kuberay_pods   a manifest: what a RayJob needs around it, and its pods

Neither starts anything: the launcher runs inside the job, as it runs anywhere else.
"""
