// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IAttestationCenter} from "../src/interfaces/IAttestationCenter.sol";

/// @notice What a center asks of a court when it is named.
contract FakeCourt {
    IAttestationCenter public immutable center;
    uint64 public immutable longestDispute;

    constructor(IAttestationCenter center_, uint64 longestDispute_) {
        center = center_;
        longestDispute = longestDispute_;
    }
}
