"""The eight workloads of AlgoPerf (Dahl et al., 2023), each at a tiny and at the published size."""
