// SPDX-License-Identifier: MIT
pragma solidity ^0.8.28;

import {IEigenLayerSource} from "./IEigenLayerSource.sol";

/// @title What an operator says of itself in EigenLayer's `registerForOperatorSets`
/// @notice Packed: roles 1 ‖ rewards receiver 20 (zero: the operator) ‖ peer key 32 ‖ vote key 192 and possession 96,
/// for attesters only ‖ length of the p2p address 2 ‖ p2p address ‖ gateway's URL, to the end.
library RegistrationData {
    uint256 private constant HEAD = 53;
    uint256 private constant VOTE_KEY = 192;
    uint256 private constant KEYS = 288;
    uint256 private constant LENGTH = 2;

    function readHead(bytes calldata data) internal pure returns (uint8 roles, address receiver, bytes32 peerKey) {
        _requireLength(data, HEAD);
        return (uint8(data[0]), address(bytes20(data[1:21])), bytes32(data[21:HEAD]));
    }

    /// @dev Of data whose endpoints were read.
    function readKeys(bytes calldata data) internal pure returns (bytes calldata voteKey, bytes calldata possession) {
        return (data[HEAD:HEAD + VOTE_KEY], data[HEAD + VOTE_KEY:HEAD + KEYS]);
    }

    function readEndpoints(bytes calldata data, bool hasKeys)
        internal
        pure
        returns (string calldata p2pAddress, string calldata gatewayUrl)
    {
        uint256 start = (hasKeys ? HEAD + KEYS : HEAD) + LENGTH;
        _requireLength(data, start);
        uint256 end = start + uint16(bytes2(data[start - LENGTH:start]));
        _requireLength(data, end);
        return (string(data[start:end]), string(data[end:]));
    }

    function _requireLength(bytes calldata data, uint256 minimum) private pure {
        if (data.length < minimum) revert IEigenLayerSource.RegistrationLength(data.length, minimum);
    }
}
