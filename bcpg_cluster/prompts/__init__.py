"""Problems: files, data sets, ready-made tasks."""
