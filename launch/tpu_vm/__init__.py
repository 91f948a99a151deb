"""Jobs on Cloud TPU VMs, by the program gcloud."""
