"""What tests of all packages use: real servers, fresh names, waiting for conditions."""
