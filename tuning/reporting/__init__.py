"""The report of a study: one HTML file with the playbook's checklist answered; the same as text, JSON, pictures."""
