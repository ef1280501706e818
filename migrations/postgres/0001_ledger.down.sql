DROP TABLE checkpoint, clock, arrival, flag, loss, lost_range, epoch, forked_batch, fold, ledger, pruning, batch, payload,
    partition, node_key, node;
DROP SEQUENCE ledger_id;
