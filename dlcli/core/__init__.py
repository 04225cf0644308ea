"""What everything stands on: errors, seeds, files, documents, options. Nothing here knows a run or a tensor."""
