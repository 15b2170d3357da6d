// For mongosh, after a restore and before masters and workers start.
//
// The epoch of a lease tells containers, claims and stored state of a later owner from those of an earlier one, so it
// must never decrease. A back-up has the epochs of its time: they are raised to the Unix time of the restore. Epochs
// increase by less than one a second, so no earlier owner, also none after an earlier restore, had a higher one.
db.getSiblingDB("admin").auth(process.env.MONGO_INITDB_ROOT_USERNAME, process.env.MONGO_INITDB_ROOT_PASSWORD);
const seconds = {"$toLong": {"$divide": [{"$toLong": "$$NOW"}, 1000]}};
for (const service of ["bot_runner", "backtest_runner", "bot_scheduler"]) {
  for (const leases of ["partitions", "leadership"]) {
    const raised = [{"$set": {"lease.epoch": {"$max": ["$lease.epoch", seconds]}}}];
    db.getSiblingDB(service).getCollection(leases).updateMany({}, raised);
  }
}
