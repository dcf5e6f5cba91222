"""The whole search (`find.find_features`), its folder on disk (`run_folder`) and the verification of one (`verify`)."""
