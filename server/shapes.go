package server

// The request bodies, field by field as in Kafka's message definitions, for the
// walk before decoding (scan.go). Fields come in wire order; a test encodes
// random requests of every key and version with kmsg and holds these against
// them, so a wrong or outdated shape cannot stay.
var (
	produceShape = shape{
		since(3, text), num(2), num(4), // transactional id, acks, timeout
		array(until(12, text), since(13, num(16)), array(num(4), blob)),
	}
	fetchShape = shape{
		until(14, num(4)), num(4), num(4), since(3, num(4)), since(4, num(1)), // replica, wait, min, max, isolation
		since(7, num(4)), since(7, num(4)), // session id and epoch
		array(until(12, text), since(13, num(16)),
			array(num(4), since(9, num(4)), num(8), since(12, num(4)), since(5, num(8)), num(4))),
		since(7, array(until(12, text), since(13, num(16)), plain(num(4)))),
		since(11, text),
		tagged(1, num(4), num(8)),
	}
	listOffsetsShape = shape{
		num(4), since(2, num(1)),
		array(text, array(num(4), since(4, num(4)), num(8), until(0, num(4)))),
		since(10, num(4)),
	}
	metadataShape = shape{
		array(since(10, num(16)), text),
		since(4, num(1)), within(8, 10, num(1)), since(8, num(1)),
	}
	offsetCommitShape = shape{
		text, since(1, num(4)), since(1, text), since(7, text), within(2, 4, num(8)),
		array(until(9, text), since(10, num(16)),
			array(num(4), num(8), within(1, 1, num(8)), since(6, num(4)), text)),
	}
	offsetFetchShape = shape{
		until(7, text), until(7, array(text, plain(num(4)))),
		since(8, array(text, since(9, text), since(9, num(4)),
			array(until(9, text), since(10, num(16)), plain(num(4))))),
		since(7, num(1)),
	}
	findCoordinatorShape = shape{until(3, text), since(1, num(1)), since(4, plain(text))}
	joinGroupShape       = shape{
		text, num(4), since(1, num(4)), text, since(5, text), text, array(text, blob), since(8, text),
	}
	heartbeatShape  = shape{text, num(4), text, since(3, text)}
	leaveGroupShape = shape{text, until(2, text), since(3, array(text, text, since(5, text)))}
	syncGroupShape  = shape{
		text, num(4), text, since(3, text), since(5, text), since(5, text), array(text, blob),
	}
	describeGroupsShape = shape{plain(text), since(3, num(1))}
	listGroupsShape     = shape{since(4, plain(text)), since(5, plain(text))}
	apiVersionsShape    = shape{since(3, text), since(3, text), since(5, text), since(5, num(4))}
	createTopicsShape   = shape{
		array(text, num(4), num(2), array(num(4), plain(num(4))), array(text, text)),
		num(4), since(1, num(1)),
	}
	deleteTopicsShape         = shape{until(5, plain(text)), since(6, array(text, num(16))), num(4)}
	deleteRecordsShape        = shape{array(text, array(num(4), num(8))), num(4)}
	initProducerIDShape       = shape{text, num(4), since(3, num(8)), since(3, num(2))}
	offsetForLeaderEpochShape = shape{
		since(3, num(4)), array(text, array(num(4), since(2, num(4)), num(4))),
	}
	incrementalAlterConfigsShape = shape{array(num(1), text, array(text, num(1), text)), num(1)}
	unregisterBrokerShape        = shape{num(4)}
	describeConfigsShape         = shape{array(num(1), text, plain(text)), since(1, num(1)), since(3, num(1))}
	describeLogDirsShape         = shape{array(text, plain(num(4)))}
	electLeadersShape            = shape{since(1, num(1)), array(text, plain(num(4))), num(4)}
	alterReassignmentsShape      = shape{num(4), since(1, num(1)), array(text, array(num(4), plain(num(4))))}
	listReassignmentsShape       = shape{num(4), array(text, plain(num(4)))}
	describeQuorumShape          = shape{array(text, array(num(4)))}
	deleteGroupsShape            = shape{plain(text)}
	offsetDeleteShape            = shape{text, array(text, array(num(4)))}
	describeClusterShape         = shape{num(1), since(1, num(1)), since(2, num(1))}
)
